"""docs/flags.md says what engine/refusals.py does."""

from __future__ import annotations

from pathlib import Path

from pilothouse.engine.refusals import REFUSALS, REFUSED_VARIABLES

PAGE = (Path(__file__).parents[2] / "docs" / "flags.md").read_text(encoding="utf-8")


def test_the_page_lists_every_refused_flag_with_its_reason() -> None:
    missing = [
        refusal.flag
        for refusal in REFUSALS
        if f"| `{refusal.flag}` | {refusal.reason} |" not in PAGE
    ]
    assert not missing


def test_the_page_lists_every_refused_variable() -> None:
    missing = [
        name for name, reason in REFUSED_VARIABLES.items() if f"| `{name}` | {reason} |" not in PAGE
    ]
    assert not missing
