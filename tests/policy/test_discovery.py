"""What lies below a path of policies is loaded once, or named in an error, a warning or a note."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pilothouse.errors import PolicyError
from pilothouse.policy import discovery
from pilothouse.policy.discovery import find_policies
from pilothouse.policy.lint import has_findings, lint
from pilothouse.policy.loader import load_policies
from tests.support.artifacts.kubernetes_mounts import DATA, mount
from tests.support.policies import policy_text, rule_text

CASES = (
    "signals: {misuse: {scope: prompt}}\n"
    "cases: [{name: a, given: {prompt: {misuse: 0.1}}, expect: {rule: null, result: allowed}}]\n"
)


def text(name: str, mode: str = "shadow") -> bytes:
    made = policy_text(rule_text(), name=name, spec=(f"mode: {mode}",))
    return made.encode()


def mounted(name: str, **more: bytes) -> dict[str, bytes]:
    return {"policy.yaml": text(name), "cases.yaml": CASES.encode(), **more}


def write(folder: Path, name: str = "one") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cases.yaml").write_text(CASES, encoding="utf-8")
    file = folder / "policy.yaml"
    file.write_bytes(text(name))
    return file


def names(*paths: Path) -> list[str]:
    return [each.name for each in load_policies(paths)]


def said(*paths: Path) -> list[tuple[str, str, str]]:
    return [(each.severity, each.file, each.text) for each in lint(paths)]


def test_a_link_to_a_policys_folder_is_followed(tmp_path: Path) -> None:
    write(tmp_path / "shared" / "no-misuse", "no-misuse")
    write(tmp_path / "pol" / "watch", "watch")
    (tmp_path / "pol" / "no-misuse").symlink_to("../shared/no-misuse")
    loaded = load_policies([tmp_path / "pol"])
    assert [each.name for each in loaded] == ["no-misuse", "watch"]
    assert loaded[0].source.file == str(tmp_path / "pol" / "no-misuse" / "policy.yaml")
    assert said(tmp_path / "pol") == []


@pytest.mark.parametrize("target", ["../../shared/no-misuse/policy.yaml", "/"])
def test_a_link_to_a_policys_file_is_followed(tmp_path: Path, target: str) -> None:
    real = write(tmp_path / "shared" / "no-misuse", "no-misuse")
    link = tmp_path / "pol" / "no-misuse" / "policy.yaml"
    link.parent.mkdir(parents=True)
    link.symlink_to(real if target == "/" else target)
    assert names(tmp_path / "pol") == ["no-misuse"]
    assert find_policies([tmp_path / "pol"]).files == [link]


@pytest.mark.parametrize("where", ["policy", "volume", "path"])
def test_a_mounted_policy_is_loaded_once_under_the_name_that_the_operator_knows(
    tmp_path: Path, where: str
) -> None:
    folder = tmp_path / "no-misuse"
    if where == "volume":
        mount(tmp_path, {f"no-misuse/{name}": each for name, each in mounted("no-misuse").items()})
    else:
        mount(folder, mounted("no-misuse"))
    path = folder if where == "path" else tmp_path
    [loaded] = load_policies([path])
    assert loaded.source.file == str(folder / "policy.yaml")
    assert said(path) == []


def test_an_error_in_a_mounted_policy_names_the_file_that_the_operator_knows(
    tmp_path: Path,
) -> None:
    broken = text("no-misuse").replace(b"misuse >= 0.5", b"misuse > 2")
    mount(tmp_path / "no-misuse", mounted("no-misuse") | {"policy.yaml": broken})
    with pytest.raises(PolicyError) as caught:
        load_policies([tmp_path])
    assert str(caught.value).startswith(f"{tmp_path / 'no-misuse' / 'policy.yaml'}:")
    assert ".." not in str(caught.value).split(": ")[0]


def test_after_a_swap_the_new_text_is_read(tmp_path: Path) -> None:
    mount(tmp_path / "one", mounted("one"))
    assert [each.spec.mode for each in load_policies([tmp_path])] == ["shadow"]
    mount(tmp_path / "one", mounted("one") | {"policy.yaml": text("one", "enforce")})
    assert [each.spec.mode for each in load_policies([tmp_path])] == ["enforce"]
    mount(tmp_path / "one", {"cases.yaml": CASES.encode()})
    with pytest.raises(PolicyError, match=r"holds no policy\.yaml"):
        load_policies([tmp_path])


def test_a_folder_that_is_left_of_an_older_mount_is_not_read(tmp_path: Path) -> None:
    mount(tmp_path / "one", mounted("one"))
    write(tmp_path / "one" / "..2025_12_31_23_59_59.77", "old")
    assert names(tmp_path) == ["one"]


def test_a_name_that_is_mounted_and_not_linked_is_an_error(tmp_path: Path) -> None:
    mount(tmp_path / "one", mounted("one"))
    mount(tmp_path / "two", mounted("two"))
    (tmp_path / "two" / "policy.yaml").unlink()
    with pytest.raises(PolicyError, match=rf"two/{DATA}/policy\.yaml: is not linked beside"):
        load_policies([tmp_path])


@pytest.mark.parametrize("folder", [".hidden", "..hidden", "..2026_01_01_00_00_00.5"])
def test_a_dotted_folder_that_no_mount_owns_is_read(tmp_path: Path, folder: str) -> None:
    write(tmp_path / "one")
    write(tmp_path / folder / "two", "two")
    assert sorted(names(tmp_path)) == ["one", "two"]


def test_what_is_met_twice_is_loaded_once_and_noted(tmp_path: Path) -> None:
    real = write(tmp_path / "z" / "one")
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "z" / "up").symlink_to("..")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "policy.yaml").symlink_to(real)
    found = find_policies([tmp_path])
    assert found.files == [real]
    assert {each.severity for each in found.problems} == {"note"}
    noted = {Path(each.file).relative_to(tmp_path).as_posix() for each in found.problems}
    assert noted == {"a", "loop", "z/up", "b/policy.yaml"}
    assert not has_findings(lint([tmp_path]))


def nowhere(folder: Path) -> Path:
    place = folder / "two"
    place.symlink_to("../gone")
    return place


def policy_that_is_gone(folder: Path) -> Path:
    place = folder / "two" / "policy.yaml"
    place.parent.mkdir()
    place.symlink_to("elsewhere.yaml")
    return place


def round_and_round(folder: Path) -> Path:
    place = folder / "two"
    place.symlink_to("three")
    (folder / "three").symlink_to("two")
    return place


def misnamed(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        place = folder / "two" / name
        place.parent.mkdir()
        place.write_bytes(text("two"))
        return place

    return make


def as_json(folder: Path) -> Path:
    place = folder / "two.json"
    content = json.dumps({"apiVersion": "pilothouse/v1", "kind": "Policy"}, indent=2)
    place.write_text(content, encoding="utf-8")
    return place


def flat(folder: Path) -> Path:
    mount(folder / "map", {"two.yaml": text("two")})
    return folder / "map" / "two.yaml"


def pipe(folder: Path) -> Path:
    place = folder / "two" / "policy.yaml"
    place.parent.mkdir()
    os.mkfifo(place)
    return place


def a_folder_of_that_name(folder: Path) -> Path:
    place = folder / "two" / "policy.yml"
    place.parent.mkdir()
    place.symlink_to("../one/policy.yaml")
    return place


WOULD_BE_MISSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a link to a folder that is gone": (nowhere, "leads nowhere"),
    "a link to a policy that is gone": (policy_that_is_gone, "leads nowhere"),
    "links that lead to each other": (round_and_round, "leads nowhere"),
    "policy.yml": (misnamed("policy.yml"), "rename it to policy.yaml"),
    "Policy.yaml": (misnamed("Policy.yaml"), "rename it to policy.yaml"),
    "policy.YAML": (misnamed("policy.YAML"), "rename it to policy.yaml"),
    "policy.json": (misnamed("policy.json"), "rename it to policy.yaml"),
    "a policy under its own name": (misnamed("two.yaml"), "is a policy and would be passed over"),
    "a policy under its own name in capitals": (misnamed("TWO.YML"), "is a policy and would be"),
    "a policy as JSON": (as_json, "is a policy and would be passed over"),
    "policies as the keys of one ConfigMap": (flat, "is a policy and would be passed over"),
    "a linked policy.yml": (a_folder_of_that_name, "rename it to policy.yaml"),
    "a pipe": (pipe, "is no plain file"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("case", WOULD_BE_MISSED)
def test_what_would_be_passed_over_is_an_error_that_names_it(tmp_path: Path, case: str) -> None:
    write(tmp_path / "one")
    make, wanted = WOULD_BE_MISSED[case]
    place = make(tmp_path)
    with pytest.raises(PolicyError) as caught:
        load_policies([tmp_path])
    assert any(
        line.startswith(f"{place}: ") or line.startswith(f"{place}:1: ")
        for line in str(caught.value).splitlines()
    )
    assert wanted in str(caught.value)
    assert ("error", str(place)) in [each[:2] for each in said(tmp_path)]


def test_a_folder_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs the tests: root may read everything."""
    write(tmp_path / "one")
    for name in ("two", "lost+found"):
        write(tmp_path / name, name)
    listed = os.listdir

    def listdir(path: Path) -> list[str]:
        if Path(path).name in ("two", "lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(discovery.os, "listdir", listdir)
    found = find_policies([tmp_path])
    assert [(Path(each.file).name, each.severity) for each in found.problems] == [
        ("lost+found", "note"),
        ("two", "error"),
    ]
    assert "Permission denied" in found.problems[1].text


def test_what_is_no_policy_lies_beside_policies_in_peace(tmp_path: Path) -> None:
    write(tmp_path / "one")
    (tmp_path / "README.md").write_text("apiVersion: pilothouse/v1\n", encoding="utf-8")
    (tmp_path / "one" / "#notes").write_bytes(b"\xff\x00")
    (tmp_path / "one" / ".#policy.yaml").symlink_to("me@host.4711:1700000000")
    manifest = b"apiVersion: v1\nkind: ConfigMap\ndata:\n  policy.yaml: |\n    "
    (tmp_path / "map.yaml").write_bytes(manifest + text("two").replace(b"\n", b"\n    "))
    held = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"policy.yaml": text("two").decode()}}
    (tmp_path / "map.json").write_text(json.dumps(held, indent=1), encoding="utf-8")
    (tmp_path / "empty").mkdir()
    assert names(tmp_path) == ["one"]
    assert said(tmp_path) == []


def test_a_copy_that_an_editor_left_is_noted(tmp_path: Path) -> None:
    file = write(tmp_path / "one")
    file.with_name("policy.yaml.bak").write_bytes(b"old")
    [(severity, place, what)] = said(tmp_path)
    assert (severity, place) == ("note", f"{file}.bak")
    assert "only policy.yaml is read" in what


def test_a_policy_of_another_name_that_is_named_itself_is_loaded(tmp_path: Path) -> None:
    write(tmp_path / "one")
    (tmp_path / "two.yaml").write_bytes(text("two"))
    assert names(tmp_path, tmp_path / "two.yaml") == ["one", "two"]
    assert names(tmp_path / "two.yaml", tmp_path) == ["two", "one"]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("absent", "does not exist"),
        ("one/policy.yaml/x", "does not exist"),
        ("pol*", "does not exist"),
        ("empty", "holds no policy.yaml"),
        ("gone", "leads nowhere"),
        ("mail", "is no plain file"),
        ("nul\0", "cannot be read"),
    ],
)
def test_a_path_that_stands_for_nothing_is_an_error(tmp_path: Path, path: str, wanted: str) -> None:
    write(tmp_path / "one")
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "gone").symlink_to("nothing")
    os.mkfifo(tmp_path / "mail")
    with pytest.raises(PolicyError, match=wanted):
        load_policies([tmp_path / "one", tmp_path / path])


def test_a_path_into_a_mount_is_taken_at_its_word(tmp_path: Path) -> None:
    mount(tmp_path / "one", mounted("one"))
    assert names(tmp_path / "one" / DATA) == ["one"]


def test_a_folder_of_more_than_anybody_can_mean_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "MAX_ENTRIES", 4)
    for i in range(5):
        write(tmp_path / str(i))
    with pytest.raises(PolicyError, match="more than 4 entries"):
        load_policies([tmp_path])
