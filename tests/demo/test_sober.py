"""The policy that sobers a cheerful voice: what it takes back, and its committed figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pilothouse.config import load_config
from pilothouse.demo.probe_plans import MISUSE
from pilothouse.demo.sober import ASKED, CARD_FILE, POLICY_NAME, PROBE_NAME, SoberCard, measured
from pilothouse.model.probe import load_probe
from pilothouse.policy.loader import load_policy
from pilothouse.policy.schema import Steer

CHECKOUT = Path(__file__).resolve().parents[2]
PROBE = CHECKOUT / "probes" / "smol" / "probes" / PROBE_NAME
POLICY = CHECKOUT / "policies" / "smol" / POLICY_NAME / "policy.yaml"


@pytest.fixture(scope="module")
def card() -> SoberCard:
    return SoberCard.model_validate(json.loads((PROBE / CARD_FILE).read_text()))


def test_it_takes_back_just_what_its_profile_adds() -> None:
    shelf = load_config(CHECKOUT / "probes" / "smol" / "pilothouse.yaml")
    policy = load_policy(POLICY)
    [name] = policy.spec.match.profiles
    [rule] = policy.spec.rules
    assert isinstance(rule.then, Steer)
    added = {(each.vector, each.scale, each.unit) for each in shelf.profiles[name].steer}
    assert added == {(rule.then.vector, -(rule.then.scale or 0.0), rule.then.unit)}


def test_what_is_asked_was_neither_fitted_on_nor_set_the_threshold() -> None:
    for source, low in ASKED.values():
        used = [part for use, part in MISUSE.uses() if use != "test" and part.name == source]
        assert all(part.high <= low for part in used)


def test_the_committed_figures_are_of_the_committed_probe_and_stand_in_the_policy(
    card: SoberCard,
) -> None:
    assert card.probe_digest == load_probe(PROBE_NAME, PROBE).digest
    said = " ".join(load_policy(POLICY).metadata.description.split())
    for kind, voice in card.voices.items():
        assert f"{voice.sobered.count} of {voice.sobered.n} {kind}" in said


@pytest.mark.full
@pytest.mark.engine
@pytest.mark.timeout(1800)
def test_the_figures_come_out_again(card: SoberCard, smol: Path) -> None:
    assert smol.is_dir()
    assert measured(card.seed) == card
