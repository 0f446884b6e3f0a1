"""Files to policies: what is malformed is refused with file, line and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.errors import PolicyError
from pilothouse.policy.loader import (
    load_policies,
    load_policy,
    parse_policy,
    policy_from_json,
    policy_to_json,
)
from tests.support.policies import DOUBT, MISUSE, policy_text, rule_text, sample_policy

GOOD = policy_text(rule_text())
AD_HOC = "now: {probe: misuse, over: prompt, aggregate: {kind: max}}"
STEER = "{action: steer, vector: hedge, scale: 2.0}"
FEATURE = "{action: steer, sae: topics, feature: [3, 5], value: 2.0, unit: max_act}"
RULE = "spec.rules[0]"


def changed(before: str, after: str) -> str:
    assert before in GOOD
    return GOOD.replace(before, after, 1)


def with_rule(**fields: str) -> str:
    return policy_text(rule_text(**fields))


MALFORMED: list[tuple[str, int, str, str]] = [
    # text, line, what it says, what to do
    ("", 1, "got an empty file", "want a mapping"),
    ("- a\n- b\n", 1, "got list", "want a mapping"),
    (changed("kind: Policy", "kind: [Policy"), 3, "not YAML", "mend the syntax"),
    (GOOD + "---\na: 1\n", 14, "not YAML", "expected a single document"),
    (changed("kind: Policy", "kind: Policy\nkind: Policy"), 3, "'kind' is here twice", "keep one"),
    (changed("A sample", "&x A sample"), 5, "anchor or alias", "write them out"),
    (changed("A sample", "!!python/name:os.system x"), 5, "YAML type", "quote it"),
    (changed("A sample", "2026-01-01"), 5, "'timestamp'", "quote it"),
    (changed("metadata:", "on: 1\nmetadata:"), 3, "got the key True", "put it in quotes"),
    (changed("A sample", "[" * 40 + "]" * 40), 5, "nested deeper", "flatten"),
    (changed("A sample", "\x07"), 5, "not YAML", "remove the character"),
    (changed("pilothouse/v1", "pilothouse/v2"), 1, "apiVersion: got 'pilothouse/v2'", "want"),
    (changed("kind: Policy\n", ""), 1, "kind: is missing", "add it"),
    (changed("A sample", "A sample\n  titel: A"), 6, "titel: unknown field", "mean `title`"),
    (changed("name: sample", "name: No Misuse"), 4, "got 'No Misuse'", "kebab-case"),
    (changed("category: misuse", "category: bad"), 6, "category: got 'bad'", "'misuse'"),
    (changed("severity: low", "severity: 3"), 7, "severity: got 3", "'low'"),
    (changed("A sample", "yes"), 5, "title: got True", "put it in quotes"),
    (changed("A sample", '""'), 5, "title: is empty", "fill it"),
    (policy_text(rule_text(), spec=("mode: enforced",)), 10, "got 'enforced'", "'enforce'"),
    (policy_text(rule_text(), spec=("rollout_percent: 101",)), 10, "got 101", "less than or equal"),
    (policy_text(rule_text(), spec=('rollout_percent: "5"',)), 10, "got '5'", "want a number"),
    (policy_text(rule_text(), spec=("rollout_percent: .inf",)), 10, "got '.inf'", "finite"),
    (policy_text(rule_text(), spec=("rollout_percent: 5",)), 10, "no effect in shadow", "remove"),
    (
        policy_text(rule_text(then="{action: block}"), spec=("score_answers: true",)),
        10,
        "no effect in shadow",
        "use `mode: enforce`",
    ),
    (
        policy_text(rule_text(), spec=("score_answers: true", "mode: enforce")),
        10,
        "no rule of `phase: prompt` here blocks",
        "remove it",
    ),
    (policy_text(rule_text(), spec=("on_error: closed",)), 10, "no effect", "remove it"),
    (policy_text(rule_text(), spec=("on_error: ask",)), 10, "got 'ask'", "'open' or 'closed'"),
    (policy_text(rule_text(), spec=("match: {tenants: []}",)), 10, "tenants: is empty", "fill it"),
    (policy_text(rule_text(), spec=("match: {tenant: [a]}",)), 10, "unknown", "mean `tenants`"),
    (policy_text(rule_text(), spec=("match: {endpoints: [chats]}",)), 10, "no endpoint", "`chat`"),
    (policy_text(rule_text(), spec=("match: {models: llama}",)), 10, "got 'llama'", "[a, b]"),
    (GOOD.replace(f"    {MISUSE}\n", ""), 10, "signals: got nothing", "want a mapping"),
    (policy_text(rule_text(), signals=(MISUSE, DOUBT)), 12, "used by no rule", "remove it"),
    (policy_text(rule_text(), signals=("Misuse: {probe: m}",)), 11, "'Misuse'", "snake_case"),
    (policy_text(rule_text(), signals=(MISUSE, "at: {probe: m}")), 12, "word of cond", "another"),
    (policy_text(rule_text(), signals=("misuse: {readout: a}",)), 11, "probe: is missing", "add"),
    (
        policy_text(rule_text(), signals=("misuse: {probe: m, over: prompt}",)),
        11,
        "got `over` alone",
        "add `aggregate`",
    ),
    (
        policy_text(rule_text(), signals=("misuse: {probe: m, aggregate: {kind: max}}",)),
        11,
        "got `aggregate` alone",
        "add `over",
    ),
    (
        policy_text(
            rule_text(),
            signals=("misuse: {probe: m, readout: r, over: prompt, aggregate: {kind: max}}",),
        ),
        11,
        "got both `readout` and",
        "keep one",
    ),
    (
        policy_text(rule_text(), signals=("misuse: {probe: m, over: prompt, aggregate: {}}",)),
        11,
        "got no kind",
        "add `kind: max`",
    ),
    (
        policy_text(
            rule_text(), signals=("misuse: {probe: m, over: prompt, aggregate: {kind: ema_max}}",)
        ),
        11,
        "ema_half_life_tokens: got nothing with kind 'ema_max'",
        "add it, as in `ema_half_life_tokens: 4`",
    ),
    (
        policy_text(
            rule_text(),
            signals=(
                "misuse: {probe: m, over: prompt, aggregate: {kind: max, ema_half_life_tokens: 4}}",
            ),
        ),
        11,
        "ema_half_life_tokens: got 4.0 with kind 'max', want nothing",
        "remove it",
    ),
    (
        policy_text(
            rule_text(),
            signals=("misuse: {probe: m, over: prompt, aggregate: {kind: top_k_mean}}",),
        ),
        11,
        "k_tokens: got nothing with kind 'top_k_mean', want a whole number from 1 to 64",
        "add it, as in `k_tokens: 8`",
    ),
    (
        policy_text(
            rule_text(),
            signals=(
                "misuse: {probe: m, over: prompt, "
                "aggregate: {kind: sliding_max, window_tokens: 257}}",
            ),
        ),
        11,
        "window_tokens: got 257 with kind 'sliding_max'",
        "give one in that range",
    ),
    (
        policy_text(
            rule_text(),
            signals=(
                "misuse: {probe: m, over: prompt, aggregate: {kind: k_of_n, k_tokens: 9, "
                "window_tokens: 8, on_logit: 1, off_logit: 0}}",
            ),
        ),
        11,
        "k_tokens: got 9 with kind 'k_of_n', want at most window_tokens, which is 8",
        "lower it, or raise window_tokens",
    ),
    (
        policy_text(rule_text(when="now >= 0.5"), signals=(AD_HOC,), spec=("mode: enforce",)),
        12,
        "is ad hoc",
        "`mode: shadow`",
    ),
    (
        policy_text(rule_text(when="now >= 0.5"), signals=(AD_HOC.replace("prompt", "output"),)),
        13,
        "has no value in the prompt phase",
        "output or final rule",
    ),
    (with_rule(when="misuse >= 1.5"), 13, "never holds", "strictly inside"),
    (with_rule(when="misuse == 0.5"), 13, "column 8", "use >="),
    (with_rule(when="misuze >= 0.5"), 13, "got the signal `misuze`", "mean `misuse`"),
    (with_rule(when="misuse >= 0.5 for 3 tokens"), 13, "no effect in the prompt", "phase: output"),
    (with_rule(phase="stream"), 13, "phase: got 'stream'", "'output'"),
    (with_rule(then="{action: judge, judge: guard}"), 13, "this version has no judge", "use `log`"),
    (with_rule(then="{action: mask}"), 13, "got `action: mask`", "'block'"),
    (with_rule(then="{message: declined}"), 13, "has no `action`", "add `action: log`"),
    (with_rule(then="{action: log, message: a}"), 13, "message: unknown field", "remove"),
    (with_rule(then="{action: respond}"), 13, "message: is missing", "add it"),
    (with_rule(then="{action: tag, tag: Not OK}"), 13, "got 'Not OK'", "kebab-case"),
    (with_rule(then="{action: block, as: message}"), 13, "as: got 'message'", "'refusal'"),
    (
        with_rule(phase="final", then="{action: block, as: error}"),
        13,
        "`error` is for the prompt",
        "`as: refusal`",
    ),
    (with_rule(then=STEER, phase="final"), 13, "no token follows", "`phase: output`"),
    (with_rule(then=STEER.replace("2.0", "0")), 13, "scale of 0 has no effect", "use another"),
    (with_rule(then=STEER.replace("2.0", ".nan")), 13, "got '.nan'", "finite"),
    (with_rule(then=STEER.replace("}", ", layers: [2, 2]}")), 13, "listed twice", "once"),
    (with_rule(then=STEER.replace("}", ", layers: [-1]}")), 13, "got -1", "greater than"),
    (with_rule(then=STEER.replace("}", ", hold_tokens: 0}")), 13, "got 0", "greater than"),
    (with_rule(then=STEER.replace("}", ", hold_tokens: 2.5}")), 13, "got 2.5", "whole number"),
    (with_rule(then=STEER.replace("}", ", sae: s}")), 13, "got both of `vector`", "one of them"),
    (with_rule(then="{action: steer, scale: 2}"), 13, "got neither of `vector`", "one of them"),
    (with_rule(then=STEER.replace("}", ", feature: 3}")), 13, "feature: has no effect", "an `sae`"),
    (with_rule(then=STEER.replace("}", ", above: 3}")), 13, "above: has no effect", "an `sae`"),
    (with_rule(then=FEATURE.replace("feature: [3, 5], ", "")), 13, "got `sae` alone", "a label"),
    (with_rule(then=FEATURE.replace("[3, 5]", "[3, -5]")), 13, "got -5", "greater than"),
    (with_rule(then=FEATURE.replace("[3, 5]", "{a: 1}")), 13, "feature", "whole number"),
    (with_rule(more=", leak_tokens: 1"), 13, "leak_tokens: has no effect", "remove it"),
    (
        with_rule(
            when="misuse >= 0.5 for 3 tokens",
            phase="output",
            then="{action: block}",
            more=", leak_tokens: 3",
        ),
        13,
        "got 3, want less than the 3",
        "held back",
    ),
    (policy_text(rule_text(), rule_text()), 14, "`r` is the id of rules[0] too", "take another"),
    (with_rule(rule="Rule_1"), 13, "got 'Rule_1'", "kebab-case"),
    (with_rule(more=", mode: enforce"), 13, "mode: unknown field", "known here"),
]


@pytest.mark.parametrize(("text", "line", "got", "remedy"), MALFORMED)
def test_a_malformed_policy_is_refused_with_file_line_and_remedy(
    text: str, line: int, got: str, remedy: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, "some/policy.yaml")
    said = str(caught.value)
    assert said.startswith(f"some/policy.yaml:{line}: "), said
    assert got in said
    assert remedy in said


def test_all_errors_of_a_file_come_at_once_in_its_order() -> None:
    text = policy_text(
        rule_text(when="misuse >> 1", rule="a"), rule_text(when="doubt >= 0.5", rule="b")
    )
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, "p.yaml")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["p.yaml:13", "p.yaml:14"]


def test_a_good_policy_is_read_with_its_defaults() -> None:
    policy = parse_policy(GOOD)
    assert policy.name == "sample"
    assert (policy.spec.mode, policy.spec.rollout_percent) == ("shadow", 100)
    assert policy.spec.match.endpoints == ("*",)


def test_json_is_the_policy_again() -> None:
    policy = sample_policy(
        rule_text(then="{action: block, as: error, message: declined}"),
        rule_text(rule="s", phase="output", then=STEER),
        rule_text(rule="f", phase="output", then=FEATURE),
        rule_text(rule="l", phase="output", then=FEATURE.replace("[3, 5]", "the tide")),
        spec=("mode: enforce", "on_error: closed"),
    )
    again = policy_from_json(policy_to_json(policy))
    assert again == policy
    assert policy_to_json(again) == policy_to_json(policy)


def test_json_that_is_no_policy_is_refused() -> None:
    data = policy_to_json(sample_policy())
    data["spec"]["rules"][0]["when"] = "nothing >= 0.5"
    with pytest.raises(PolicyError, match=r"spec\.rules\[0\]\.when: got the signal `nothing`"):
        policy_from_json(data)


def write(folder: Path, name: str) -> Path:
    file = folder / name / "policy.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(policy_text(rule_text(), name=name), encoding="utf-8")
    return file


def test_a_path_is_a_file_a_policy_folder_or_a_library(tmp_path: Path) -> None:
    first, second = write(tmp_path, "one"), write(tmp_path, "two")
    for path, names in ((first, ["one"]), (second.parent, ["two"]), (tmp_path, ["one", "two"])):
        assert [policy.name for policy in load_policies([path])] == names


def test_a_name_twice_is_refused_with_both_files(tmp_path: Path) -> None:
    file = write(tmp_path, "one")
    with pytest.raises(PolicyError) as caught:
        load_policies([tmp_path, file])
    assert str(caught.value).startswith(f"{file}:4: metadata.name: `one` is loaded from {file}")


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_path_without_policies_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PolicyError, match=r"name a (policy file|folder)"):
        load_policies([tmp_path / name])


def test_a_policy_that_would_be_passed_over_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "one").rename(tmp_path / "one" / "policy.yml")
    write(tmp_path, "two")
    with pytest.raises(PolicyError, match=r"policy\.yml: .*rename it to policy\.yaml"):
        load_policies([tmp_path])


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"a: 1\nb: \xff\n", ":2: not UTF-8"), (b"#" * 300_000, ":1: larger than 262144 bytes")],
)
def test_a_file_that_is_no_text_or_too_large_is_refused(
    tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_bytes(content)
    with pytest.raises(PolicyError) as caught:
        load_policy(file)
    assert str(caught.value).startswith(f"{file}{said}")


@settings(max_examples=300, deadline=None)
@given(
    place=st.integers(0, len(GOOD) - 1),
    length=st.integers(0, 12),
    noise=st.text(
        st.sampled_from("{}[]:-&*!|>%@`\"'#?, \n\tabz019.~<=\x00é\U0001f600"), max_size=8
    ),
)
def test_a_damaged_policy_is_read_or_refused_by_line_and_never_breaks_the_loader(
    place: int, length: int, noise: str
) -> None:
    try:
        parse_policy(GOOD[:place] + noise + GOOD[place + length :], "p.yaml")
    except PolicyError as error:
        for line in str(error).splitlines():
            assert line.startswith("p.yaml:")
