"""Slots: never two programs in one, never one taken from a live request, slot 0 never used."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pilothouse.edits.layer import LayerEdit
from pilothouse.edits.ops.additions import Additions
from pilothouse.edits.program import Program
from pilothouse.engine.scheduler.programs import EMPTY_SLOT, ProgramSlots
from pilothouse.types import Tap

CAPACITY = 3
AT = Tap(0, "resid_post")


def program(name: str) -> Program:
    row_D = np.full(2, ord(name), np.float32)
    return Program(name, 1.0, {AT: LayerEdit(2, (Additions(row_D),))})


class Slots(RuleBasedStateMachine):
    """Requests come and go; a model of the workers' table is filled by the uploads."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = ProgramSlots(CAPACITY)
        self.table: dict[int, float] = {}
        self.live: list[dict[str, int]] = []

    @rule(names=st.sets(st.sampled_from("abcdef"), min_size=1, max_size=2))
    def ask(self, names: set[str]) -> None:
        in_use = {digest for each in self.live for digest in each}
        got = self.slots.acquire([program(name) for name in sorted(names)])
        assert (got is not None) == (len(in_use | names) <= CAPACITY)
        if got is not None:
            self.live.append(got)

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 50))
    def end(self, index: int) -> None:
        self.slots.release(set(self.live.pop(index % len(self.live))))

    @invariant()
    def every_live_request_finds_its_rows_in_its_slot(self) -> None:
        for upload in self.slots.drain_uploads():
            additions = upload.layers[AT].get(Additions)
            assert additions is not None
            self.table[upload.slot] = float(additions.addition_D[0])
        for each in self.live:
            for digest, slot in each.items():
                assert slot != EMPTY_SLOT
                assert self.table[slot] == ord(digest)
        assert self.slots.active == len({digest for each in self.live for digest in each})


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_program_that_comes_back_costs_no_upload() -> None:
    slots = ProgramSlots(2)
    slots.acquire([program("a")])
    slots.release({"a"})
    assert len(slots.drain_uploads()) == 1
    assert slots.resident([program("a")])
    slots.acquire([program("a")])
    assert slots.drain_uploads() == []
