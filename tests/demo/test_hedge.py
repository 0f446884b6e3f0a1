"""The closed loop: which questions it asks, of which policy, and that its files hold together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pilothouse.artifacts.probe import load_probe
from pilothouse.demo.hedge import (
    CARD_FILE,
    CHOOSING,
    PAGE_FILE,
    POLICY_NAME,
    PROBE_NAME,
    TESTING,
    check_threshold,
    enforced_for_chats,
    measured,
)
from pilothouse.demo.hedge_figures import HedgeCard
from pilothouse.demo.hedge_page import page
from pilothouse.demo.probe_plans import WRONG_ANSWER
from pilothouse.errors import ConfigError
from pilothouse.policy.cases import CASES_FILE, load_cases
from pilothouse.policy.lint import has_findings, lint
from pilothouse.policy.loader import load_policy
from pilothouse.policy.testing import run_cases

CHECKOUT = Path(__file__).resolve().parents[2]
PROBE = CHECKOUT / "probes" / "smol" / "probes" / PROBE_NAME
POLICY = CHECKOUT / "examples" / "smol" / "policies" / POLICY_NAME / "policy.yaml"


@pytest.fixture(scope="module")
def card() -> HedgeCard:
    return HedgeCard.model_validate(json.loads((PROBE / CARD_FILE).read_text()))


def test_questions_that_choose_and_test_were_not_fitted_on() -> None:
    fitted = [part for parts in WRONG_ANSWER.fitted.values() for part in parts]
    assert max(part.high for part in fitted) <= CHOOSING[0]
    assert CHOOSING[1] <= TESTING[0]


def test_the_policy_comes_with_cases_that_come_out_and_lint_finds_nothing() -> None:
    policy = load_policy(POLICY)
    assert run_cases(policy, load_cases(POLICY.parent / CASES_FILE, policy)) == []
    assert not has_findings(lint([POLICY.parent]))


def test_the_policy_is_enforced_for_chats_alone() -> None:
    document = yaml.safe_load(POLICY.read_text())
    found = enforced_for_chats(document)["spec"]
    assert (found["mode"], found["match"]) == ("enforce", {"endpoints": ["chat"]})
    assert found["rules"] == document["spec"]["rules"]


def test_a_policy_with_another_threshold_is_refused() -> None:
    document = yaml.safe_load(POLICY.read_text())
    with pytest.raises(ConfigError, match=r"want \['doubt >= 0.123'\].*write it into the policy"):
        check_threshold(document, 0.123)


def test_the_committed_figures_are_of_the_committed_probe_and_policy(card: HedgeCard) -> None:
    assert card.probe_digest == load_probe(PROBE_NAME, PROBE).digest
    check_threshold(yaml.safe_load(POLICY.read_text()), card.threshold)


def test_the_committed_page_is_written_from_its_card(card: HedgeCard) -> None:
    assert (PROBE / PAGE_FILE).read_text() == page(card)


def test_what_clients_got_is_what_was_to_be_declined(card: HedgeCard) -> None:
    """The policy in the engine did to each answer what its score says."""
    [probe, *_] = card.declined
    assert card.loop.wrong_before.count - card.loop.wrong_after.count == probe.wrong.count
    assert card.loop.right_before.count - card.loop.right_after.count == probe.right.count


def test_the_policy_is_enforced_only_where_the_figures_carry_it(card: HedgeCard) -> None:
    policy = load_policy(POLICY)
    assert policy.spec.mode == "shadow" or card.carries
    said = " ".join(policy.metadata.description.split())
    for before, after in (
        (card.loop.wrong_before, card.loop.wrong_after),
        (card.loop.right_before, card.loop.right_after),
    ):
        assert f"{before.count} to {after.count} of {before.n}" in said


@pytest.mark.full
@pytest.mark.engine
@pytest.mark.timeout(3600)
def test_the_figures_come_out_again(card: HedgeCard, smol: Path) -> None:
    assert smol.is_dir()
    assert measured(PROBE, POLICY, card.seed) == card
