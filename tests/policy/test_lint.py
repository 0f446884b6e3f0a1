"""What lint says: errors, warnings, and what can leave before a verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilothouse.policy.lint import has_findings, lint
from pilothouse.policy.resolve import Artefacts
from pilothouse.validation_errors import Problem, Severity
from tests.support.policies import DOUBT, MISUSE, SPECS, policy_text, rule_text

ARTEFACTS = Artefacts(SPECS, {}, {"hedge": (2, 3)})
CASES = """signals:
  {signal}: {{scope: {scope}}}
cases:
  - {{name: a, given: {{}}, expect: {{rule: null, result: allowed}}}}
"""
ENFORCED = ("mode: enforce", "on_error: closed")
BLOCK = "{action: block}"


def write(folder: Path, text: str, name: str = "sample", cases: str | None = CASES) -> Path:
    file = folder / name / "policy.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    if cases is not None:
        signal, scope = ("doubt", "answer") if DOUBT in text else ("misuse", "prompt")
        (file.parent / "cases.yaml").write_text(
            cases.format(signal=signal, scope=scope), encoding="utf-8"
        )
    return file


def said(problems: tuple[Problem, ...]) -> list[tuple[Severity, int, str]]:
    return [(each.severity, each.line, each.text) for each in problems]


def test_a_good_policy_has_nothing_said_of_it(tmp_path: Path) -> None:
    write(tmp_path, policy_text(rule_text()))
    assert lint([tmp_path], ARTEFACTS) == ()


@pytest.mark.parametrize(
    ("rule", "held"),
    [
        (
            rule_text(when="doubt >= 0.5", phase="output", then=BLOCK),
            "keeps 1 tokens back; of the token that fires, none of its tokens leaves",
        ),
        (
            rule_text(when="doubt >= 0.5 for 4 tokens", phase="output", then=BLOCK),
            "keeps 4 tokens back; of the run of 4 tokens that fires, none",
        ),
        (
            rule_text(
                when="doubt >= 0.5 for 4 tokens",
                phase="output",
                then=BLOCK,
                more=", leak_tokens: 3",
            ),
            "keeps 1 tokens back; of the run of 4 tokens that fires, up to 3 of its tokens leave",
        ),
        (rule_text(when="doubt >= 0.5", phase="final", then=BLOCK), "keeps the whole answer back"),
    ],
)
def test_what_can_leave_is_a_note_and_no_finding(tmp_path: Path, rule: str, held: str) -> None:
    write(tmp_path, policy_text(rule, signals=(DOUBT,), spec=ENFORCED))
    (note,) = lint([tmp_path], ARTEFACTS)
    assert (note.severity, note.line) == ("note", 15)
    assert held in note.text
    assert not has_findings([note])


def test_a_policy_that_scores_answers_tells_that_it_keeps_them_back(tmp_path: Path) -> None:
    write(tmp_path, policy_text(rule_text(then=BLOCK), spec=(*ENFORCED, "score_answers: true")))
    (note,) = lint([tmp_path], ARTEFACTS)
    assert (note.severity, note.line) == ("note", 12)
    assert "keeps every answer back until it ends" in note.text


@pytest.mark.parametrize(
    ("text", "line", "warning"),
    [
        (policy_text(rule_text(then=BLOCK), spec=("mode: enforce",)), 9, "`on_error` is not said"),
        (
            policy_text(rule_text(), spec=("mode: enforce", "rollout_percent: 0")),
            11,
            "0 enforces nothing",
        ),
        (policy_text(rule_text(), name="other"), 4, "the folder is called 'sample'"),
        (policy_text(rule_text(phase="output")), 13, "reads the prompt only"),
    ],
)
def test_what_is_risky_is_a_warning_at_its_line(
    tmp_path: Path, text: str, line: int, warning: str
) -> None:
    write(tmp_path, text)
    problems = lint([tmp_path], ARTEFACTS)
    found = [each for each in problems if each.severity != "note"]
    assert [(each.severity, each.line) for each in found] == [("warning", line)]
    assert warning in found[0].text
    assert has_findings(problems)


def test_a_policy_without_cases_is_a_warning(tmp_path: Path) -> None:
    write(tmp_path, policy_text(rule_text()), cases=None)
    ((severity, _, text),) = said(lint([tmp_path]))
    assert severity == "warning"
    assert "no cases.yaml beside it" in text


def test_broken_cases_are_errors(tmp_path: Path) -> None:
    file = write(tmp_path, policy_text(rule_text()), cases="cases: []\n")
    (problem,) = lint([tmp_path])
    assert problem.severity == "error"
    assert (problem.file, problem.line) == (str(file.parent / "cases.yaml"), 1)


def test_a_vector_in_two_units_is_a_warning(tmp_path: Path) -> None:
    first = "{action: steer, vector: hedge, scale: 3.0}"
    second = "{action: steer, vector: hedge, scale: 0.2, unit: residual}"
    write(tmp_path, policy_text(rule_text(then=first), rule_text(rule="s", then=second)))
    ((severity, line, text),) = said(lint([tmp_path], ARTEFACTS))
    assert (severity, line) == ("warning", 14)
    assert "sample/r" in text


def test_names_are_checked_only_where_it_is_known_what_is_loaded(tmp_path: Path) -> None:
    steer = "{action: steer, vector: nothing, scale: 3.0}"
    write(tmp_path, policy_text(rule_text(then=steer), signals=(MISUSE.replace("prompt", "max"),)))
    assert lint([tmp_path]) == ()
    assert [(each.severity, each.line) for each in lint([tmp_path], ARTEFACTS)] == [
        ("error", 11),
        ("error", 13),
    ]


def test_every_file_is_looked_at_though_one_is_broken(tmp_path: Path) -> None:
    write(tmp_path, policy_text(rule_text(when="misuse > 2"), name="one"), name="one")
    write(tmp_path, policy_text(rule_text(when="misuse > 3"), name="two"), name="two")
    files = [each.file for each in lint([tmp_path])]
    assert files == [str(tmp_path / name / "policy.yaml") for name in ("one", "two")]


def test_one_name_in_two_files_is_an_error(tmp_path: Path) -> None:
    text = policy_text(rule_text())
    write(tmp_path, text)
    write(tmp_path / "more", text)
    (problem,) = lint([tmp_path])
    assert problem.severity == "error"
    assert "`sample` is loaded from" in problem.text


def test_a_folder_without_policies_is_an_error(tmp_path: Path) -> None:
    (problem,) = lint([tmp_path])
    assert problem.severity == "error"
    assert "holds no policy.yaml" in problem.text
