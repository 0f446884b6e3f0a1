"""pilothouse.yaml: what is wrong in it is named by file, line and field, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilothouse.config import load_config, parse_config
from pilothouse.errors import ConfigError


def written(folder: Path, text: str) -> Path:
    file = folder / "pilothouse.yaml"
    file.write_text(text, encoding="utf-8")
    return file


PROFILE = "version: 1\nvectors: {v: {path: v}}\nprofiles:\n  'a:b':\n    steer:\n      - "


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("version: 2\n", 1, "version: got 2, want 1"),
        ("version: 1\nlimits:\n  max_term: 3\n", 3, "limits.max_term: unknown field; did you mean"),
        ("version: 1\npolicies: x\n", 2, "policies: got 'x', want a list: write [a, b]"),
        ("version: 1\nsaes:\n  y: {path: 3}\n", 3, "saes.y.path: got 3, want a path"),
        ("version: 1\nvectors:\n  y: {path: hf://a}\n", 3, "vectors.y.path: got 'hf://a', want hf"),
        (
            PROFILE + "{vector: v, scale: no}",
            6,
            "profiles.a:b.steer[0].scale: got 'no', want a num",
        ),
        (PROFILE + "{vectr: v}", 6, "profiles.a:b.steer[0].vectr: unknown field; did you mean `v"),
        (PROFILE + "{scale: 1}", 6, "profiles.a:b.steer[0]: vector: missing; want one of"),
        (PROFILE + "{vector: w}", 1, "profile 'a:b' steers with 'w', which is not under vectors"),
        ("version: 1\n\nversion: 1\n", 3, "the key 'version' is here twice: keep one"),
        ("version: 1\nmodel_id: [\n", 3, "not YAML"),
        ("- a\n", 1, "got list, want a mapping"),
        ("", 1, "got an empty file, want a mapping"),
        ("version: 1\n1: a\n", 2, "got the key 1, want text: put it in quotes"),
        ("version: 1\nmodel_id: 2026-01-01\n", 2, "got a value of YAML type 'timestamp'"),
        ('version: 1\nmodel_id: "\\ud800"\n', 2, "got '\\ud800', want valid Unicode"),
        ("version: 1\nvectors: " + "[" * 40 + "]" * 40, 2, "nested deeper than 16 levels"),
    ],
)
def test_an_error_names_file_line_and_field(
    tmp_path: Path, text: str, line: int, told: str
) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        load_config(file)
    lines = str(refused.value).splitlines()
    assert any(each.startswith(f"{file}:{line}: {told}") for each in lines), lines


def test_all_errors_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "version: 3\ntaps:\n  embed: [-1]\ngat: {}\n")
    with pytest.raises(ConfigError) as refused:
        load_config(file)
    found = [each.removeprefix(f"{file}:")[0] for each in str(refused.value).splitlines()]
    assert found == ["1", "3", "4"]


def test_on_is_a_field_and_no_truth_value(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, PROFILE + "{vector: v, on: prompt, scale: 1}"))
    [term] = config.profiles["a:b"].steer
    assert term.on == "prompt"


def test_anchors_and_merges_are_followed(tmp_path: Path) -> None:
    text = PROFILE.replace("'a:b':", "'a:b': &first") + "{vector: v, scale: 1}\n"
    config = load_config(written(tmp_path, text + "  'a:c':\n    <<: *first\n"))
    assert config.profiles["a:c"] == config.profiles["a:b"]


def test_a_field_beside_a_merge_wins_over_what_is_merged(tmp_path: Path) -> None:
    text = "version: 1\nvectors:\n  a: &a {path: x, digest: null}\n  b: {path: y, <<: *a}\n"
    config = load_config(written(tmp_path, text))
    assert [config.vectors[name].path for name in "ab"] == [tmp_path / "x", tmp_path / "y"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("version: &x [*x]", "nested deeper"),
        (
            "a: &a "
            + "[1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "\n".join(
                f"{after}: &{after} [{', '.join([f'*{before}'] * 8)}]"
                for before, after in zip("abcdef", "bcdefg", strict=True)
            ),
            "values: use fewer aliases",
        ),
        ("version: 1\nvectors: {<<: 3}", "want a mapping's alias"),
    ],
)
def test_aliases_are_bounded(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(written(tmp_path, text))


def test_a_configuration_that_is_no_file_is_named_by_its_origin() -> None:
    with pytest.raises(ConfigError, match=r"^the demo: limits\.max_term: unknown field"):
        parse_config({"version": 1, "limits": {"max_term": 1}}, folder=Path(), origin="the demo")
