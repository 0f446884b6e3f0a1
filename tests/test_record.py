"""The record's wire form."""

from __future__ import annotations

from dataclasses import asdict

import msgspec

from pilothouse.record import Decision, Record, TokenScores

FULL = Record(
    "decision",
    "revision",
    values={"misuse/prompt": 0.5},
    prompt_done=True,
    verdict=Decision("no-misuse", "block-misuse", "prompt", "enforce", "block", "blocked"),
    decisions=[Decision("no-misuse", "block-misuse", "prompt", "enforce", "block", "blocked", 3)],
    token_scores=[TokenScores(0, 17, {"misuse": 0.25})],
    steered_tokens={"cheerful": 4},
    closing=True,
    choice=(0, 1),
)


def test_a_record_survives_the_wire_between_processes() -> None:
    over = msgspec.msgpack.decode(msgspec.msgpack.encode(FULL.to_wire()))
    assert Record.from_wire(over) == FULL


def test_the_wire_has_every_field_as_plain_builtins() -> None:
    assert FULL.to_wire() == asdict(FULL)
    assert Record("d", "r").to_wire() == asdict(Record("d", "r"))
