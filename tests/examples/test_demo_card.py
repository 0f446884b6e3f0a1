"""The demo's cards say what was measured, and nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path

DEMO = Path(__file__).parents[2] / "examples" / "demo"
sys.path.insert(0, str(DEMO))


def test_the_cards_state_the_stored_figures() -> None:
    from card import cards

    for path, text in cards().items():
        assert path.read_text() == text, f"{path}: run `python card.py`"


def test_the_table_of_doors_has_every_door_and_lets_little_through() -> None:
    """What it says of harmless requests is above the 1% that is worked towards, and no bound.

    The doors of /v1/responses came later than the figures (docs/explanation/security.md): when they
    were taken the route was denied, which one door tried, as another does now with what is kept
    there.
    """
    from tests.support.attacks import responses
    from tests.support.attacks.attacks import DOORS

    later = {name for name in DOORS if getattr(responses, name, None) is DOORS[name]}
    assert later and all(name.startswith("response") for name in later)
    stored = json.loads((DEMO / "doors.json").read_text())
    for house, result in stored.items():
        assert result["doors"].keys() - {"responses"} == DOORS.keys() - later - {
            "kept_responses"
        }, house
        assert result["unseen_prefills"] and result["through"]["n"] >= 400
        assert result["through"]["share"] <= 0.02 and result["failed"] == 0, house
