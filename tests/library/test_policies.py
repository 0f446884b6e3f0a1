"""Every policy that comes with Pilothouse: its shape, its cases, and that they cover its rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilothouse.policy.cases import CASES_FILE, CaseFile, load_cases
from pilothouse.policy.lint import has_findings, lint
from pilothouse.policy.loader import load_policies, load_policy, policy_files
from pilothouse.policy.schema import Policy, Steer
from pilothouse.policy.testing import run_cases

LIBRARY = Path(__file__).resolve().parents[2] / "policies"
PROBES = {
    "misuse": "prompt",
    "adversarial": "prompt",
    "hallucination": "answer",
    "hallucination-onset": "onset",
}
VECTORS = {"hedge", "cheerful"}
FIRED = {
    "flagged",
    "steered",
    "responded",
    "blocked",
    "would_steer",
    "would_respond",
    "would_block",
}

FILES = policy_files(LIBRARY)
every_policy = pytest.mark.parametrize(
    "file", FILES, ids=[str(file.parent.relative_to(LIBRARY)) for file in FILES]
)


def read(file: Path) -> tuple[Policy, CaseFile]:
    policy = load_policy(file)
    return policy, load_cases(file.parent / CASES_FILE, policy)


def test_the_shelves_are_those_of_the_world_and_one_of_the_real_model() -> None:
    assert sorted(shelf.name for shelf in LIBRARY.iterdir()) == ["baseline", "observe", "smol"]
    assert all(file.parents[2] == LIBRARY for file in FILES)


def test_all_shelves_can_be_loaded_at_once() -> None:
    assert len(load_policies([LIBRARY])) == len(FILES)


def test_lint_finds_nothing() -> None:
    assert not has_findings(lint([LIBRARY]))


@every_policy
def test_a_folder_holds_one_policy_of_its_name_and_its_cases(file: Path) -> None:
    assert load_policy(file).name == file.parent.name
    assert sorted(each.name for each in file.parent.iterdir()) == [CASES_FILE, file.name]


@every_policy
def test_all_cases_come_out_as_written(file: Path) -> None:
    assert run_cases(*read(file)) == []


@every_policy
def test_each_rule_has_a_case_that_fires_it_and_one_that_does_not(file: Path) -> None:
    policy, cases = read(file)
    fired = {each.expect.rule for each in cases.cases if each.expect.result in FIRED}
    assert fired == {rule.id for rule in policy.spec.rules}
    assert any(each.expect.result == "allowed" for each in cases.cases)


@every_policy
def test_each_rule_has_a_case_without_a_score(file: Path) -> None:
    policy, cases = read(file)
    unscored = {
        each.expect.rule
        for each in cases.cases
        if each.expect.result in ("bypassed", "error_blocked")
    }
    assert unscored == {rule.id for rule in policy.spec.rules}


@every_policy
def test_a_policy_names_only_the_demo_probes_and_vectors(file: Path) -> None:
    policy, _ = read(file)
    for signal in policy.spec.signals.values():
        assert PROBES[signal.probe] == signal.readout
    steered = {rule.then.vector for rule in policy.spec.rules if isinstance(rule.then, Steer)}
    assert steered <= VECTORS


@every_policy
def test_what_holds_for_all_is_in_shadow_in_observe_and_smol_and_observe_only_logs(
    file: Path,
) -> None:
    policy = load_policy(file)
    shelf = file.parents[1].name
    if policy.spec.match.profiles == ("*",):
        assert (policy.spec.mode == "shadow") is (shelf in ("observe", "smol"))
    if shelf == "observe":
        assert {rule.then.action for rule in policy.spec.rules} == {"log"}
