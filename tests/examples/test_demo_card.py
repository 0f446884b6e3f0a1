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
    """What it says of harmless requests is above the 1% that is worked towards, and no bound."""
    from tests.server.doors.attacks import DOORS

    stored = json.loads((DEMO / "doors.json").read_text())
    for house, result in stored.items():
        assert result["doors"].keys() == DOORS.keys(), house
        assert result["unseen_prefills"] and result["through"]["n"] >= 400
        assert result["through"]["share"] <= 0.02 and result["failed"] == 0, house
