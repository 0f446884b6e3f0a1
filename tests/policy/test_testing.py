"""Cases run one request through the rules and say which did not come out as written."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilothouse.errors import PolicyError
from pilothouse.policy.cases import CaseFile, load_cases
from pilothouse.policy.schema import Policy
from pilothouse.policy.testing import run_cases
from tests.support.policies import DOUBT, MISUSE, rule_text, sample_policy

STEER = "{action: steer, vector: hedge, scale: 3.0}"
HEAD = """signals:
  misuse: {scope: prompt, threshold: 0.8}
  doubt: {scope: answer}
cases:
"""


def policy() -> Policy:
    return sample_policy(
        rule_text(rule="stop", when="misuse at fpr 0.001", then="{action: block}"),
        rule_text(rule="hedge", phase="output", when="doubt >= 0.6 for 2 tokens", then=STEER),
        rule_text(
            rule="end", phase="output", when="doubt >= 0.9", then="{action: respond, message: Hm.}"
        ),
        rule_text(rule="note", phase="final", when="doubt >= 0.3"),
        signals=(MISUSE, DOUBT),
        spec=("mode: enforce", "on_error: closed"),
    )


def load(tmp_path: Path, *cases: str, head: str = HEAD) -> CaseFile:
    file = tmp_path / "cases.yaml"
    file.write_text(head + "".join(f"  - {case}\n" for case in cases), encoding="utf-8")
    return load_cases(file, policy())


def case(given: str, expect: str, more: str = "") -> str:
    return f"{{name: a case, {more}given: {given}, expect: {expect}}}"


CALM = "prompt: {misuse: 0.1}"


@pytest.mark.parametrize(
    ("given", "expect"),
    [
        ("{prompt: {misuse: 0.8}}", "{rule: stop, action: block, result: blocked}"),
        ("{prompt: {}}", "{rule: stop, action: block, result: error_blocked}"),
        (
            f"{{{CALM}, output: [{{doubt: 0.7}}, {{doubt: 0.7}}]}}",
            "{rule: hedge, action: steer, result: steered, at_token: 1}",
        ),
        (
            f"{{{CALM}, output: [{{doubt: 0.7}}, {{doubt: 0.1}}, {{doubt: 0.7}}]}}",
            "{rule: note, action: log, result: flagged}",
        ),
        (
            f"{{{CALM}, output: [{{doubt: 0.7}}, {{doubt: 0.7}}, {{doubt: 0.95}}, {{doubt: 0}}]}}",
            "{rule: end, action: respond, result: responded, at_token: 2}",
        ),
        (
            f"{{{CALM}, output: [{{doubt: 0.5}}], final: {{doubt: 0.1}}}}",
            "{rule: null, result: allowed}",
        ),
        (
            f"{{{CALM}, output: [{{doubt: null}}]}}",
            "{rule: end, action: respond, result: error_blocked}",
        ),
    ],
)
def test_a_case_comes_out_as_the_phases_say(tmp_path: Path, given: str, expect: str) -> None:
    assert run_cases(policy(), load(tmp_path, case(given, expect))) == []


def test_a_case_can_be_looked_at_in_shadow(tmp_path: Path) -> None:
    given = "{prompt: {misuse: 0.9}, output: [{doubt: 0.95}]}"
    expect = "{rule: stop, action: block, result: would_block}"
    assert run_cases(policy(), load(tmp_path, case(given, expect, "enforced: false, "))) == []


@pytest.mark.parametrize(
    "expect",
    [
        "{rule: note, action: block, result: blocked}",
        "{rule: stop, action: log, result: blocked}",
        "{rule: stop, action: block, result: allowed}",
        "{rule: stop, action: block, result: blocked, at_token: 0}",
        "{rule: null, result: allowed}",
    ],
)
def test_a_case_that_expects_anything_else_is_reported_by_line(tmp_path: Path, expect: str) -> None:
    good = case("{prompt: {misuse: 0.9}}", "{rule: stop, action: block, result: blocked}")
    cases = load(tmp_path, good, case("{prompt: {misuse: 0.9}}", expect))
    (problem,) = run_cases(policy(), cases)
    assert (problem.file, problem.line) == (str(tmp_path / "cases.yaml"), 6)
    assert "got {'rule': 'stop', 'action': 'block', 'result': 'blocked'}" in problem.text


@pytest.mark.parametrize(
    ("head", "body", "line", "said"),
    [
        (HEAD, case("{}", "{rule: halt, result: allowed}"), 5, "no rule `halt`"),
        (HEAD, case("{prompt: {miss: 1}}", "{rule: null, result: allowed}"), 5, "mean `misuse`"),
        (HEAD, case("{prompt: {doubt: 1}}", "{rule: null, result: allowed}"), 5, "covers the ans"),
        (HEAD, case("{final: {misuse: 1}}", "{rule: null, result: allowed}"), 5, "with the prompt"),
        (HEAD, case("{prompt: {misuse: 2}}", "{rule: null, result: allowed}"), 5, "less than"),
        (HEAD, case("{}", "{rule: null, result: fine}"), 5, "got 'fine'"),
        (HEAD, "{name: a, given: {}}", 5, "expect: is missing"),
        (
            HEAD.replace(", threshold: 0.8", ""),
            case("{}", "{rule: null, result: allowed}"),
            2,
            "add `threshold",
        ),
        (
            HEAD.replace("answer}", "answer, threshold: 0.5}"),
            case("{}", "{rule: null, result: allowed}"),
            3,
            "no rule says",
        ),
        (
            HEAD.replace("  doubt: {scope: answer}\n", ""),
            case("{}", "{rule: null, result: allowed}"),
            1,
            "no stand-in",
        ),
    ],
)
def test_a_malformed_case_file_is_refused_with_file_and_line(
    tmp_path: Path, head: str, body: str, line: int, said: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        load(tmp_path, body, head=head)
    assert str(caught.value).startswith(f"{tmp_path / 'cases.yaml'}:{line}: ")
    assert said in str(caught.value)


def test_an_ad_hoc_signal_leaves_its_probes_readout_as_it_is(tmp_path: Path) -> None:
    made = sample_policy(
        rule_text(rule="stop", when="read >= 0.5", then="{action: block}"),
        rule_text(rule="note", phase="output", when="now >= 0.5"),
        signals=(
            "read: {probe: m}",
            "now: {probe: m, over: output, aggregate: {kind: last}}",
        ),
    )
    file = tmp_path / "cases.yaml"
    file.write_text(
        "signals:\n  read: {scope: prompt}\ncases:\n"
        "  - {name: a, given: {prompt: {read: 0.9}},\n"
        "     expect: {rule: stop, action: block, result: would_block}}\n",
        encoding="utf-8",
    )
    assert run_cases(made, load_cases(file, made)) == []


@pytest.mark.parametrize(
    ("stand_ins", "given"),
    [
        ("one: {scope: prompt, threshold: 0.8}, two: {scope: prompt, threshold: 0.2}", "{}"),
        (
            "one: {scope: prompt, threshold: 0.8}, two: {scope: prompt, threshold: 0.8}",
            "{prompt: {one: 0.9, two: 0.1}}",
        ),
    ],
    ids=["stand-ins", "values"],
)
def test_two_signals_of_one_readout_are_told_one_thing(
    tmp_path: Path, stand_ins: str, given: str
) -> None:
    made = sample_policy(
        rule_text(rule="a", when="one at fpr 0.01"),
        rule_text(rule="b", when="two at fpr 0.01"),
        signals=("one: {probe: m, readout: r}", "two: {probe: m, readout: r}"),
    )
    file = tmp_path / "cases.yaml"
    file.write_text(
        f"signals: {{{stand_ins}}}\ncases:\n"
        f"  - {{name: a, given: {given}, expect: {{rule: null, result: allowed}}}}\n",
        encoding="utf-8",
    )
    with pytest.raises(PolicyError, match="is the same readout as `one`"):
        load_cases(file, made)
