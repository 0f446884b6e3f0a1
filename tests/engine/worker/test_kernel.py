"""The kernel against the same programs in numpy, many in one batch.

Shapes: T tokens, D width, P policy targets.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pilothouse.edits.ops import KINDS
from pilothouse.edits.ops.additions import ADDITIONS, Additions
from pilothouse.edits.ops.slerp import Slerp
from pilothouse.edits.program import Program, compile_program
from pilothouse.edits.row import ROWS as ROWS_KIND
from pilothouse.edits.table import register_table
from pilothouse.engine.ops import DEVICE_KINDS
from pilothouse.engine.plan.table_size import table_bytes
from pilothouse.engine.plan.tap_plan import EditPlan
from pilothouse.engine.worker.device_table import register_device_table
from pilothouse.engine.worker.kernel import edit_delta, policy_delta
from pilothouse.engine.worker.policy_edits import stage_tables
from pilothouse.engine.worker.tables import allocate, named_tensors, policy_tables, upload
from pilothouse.errors import ConfigError, EngineError, RequestError
from pilothouse.term import SteerTerm
from tests.edits.test_operators import AT, D_MODEL, LAYER, SOURCES

EVERYTHING = EditPlan(
    rank=12, planes=True, diagonal=True, slerp=True, relative=True, restores_norm=True
)
CPU = torch.device("cpu")
WHOLE = slice(0, D_MODEL)
ROWS: tuple[dict[str, Any], ...] = (
    {"vector": "a", "scale": 1.5},
    {"vector": "b", "scale": -2.0, "unit": "residual"},
    {"vector": "a", "op": "ablate", "scale": 0.7},
    {"vector": "b", "op": "set", "value": 0.7},
    {"vector": "b", "op": "cap", "value": 0.1},
    {"vector": "span"},
    {"vector": "plane", "value": 70.0},
    {"vector": "reft"},
    {
        "vector": "b",
        "scale": 2.0,
        "layers": [LAYER],
        "gate": {"probe": "p", "above": 0.2, "sharpness": 3.0},
    },
    {"vector": "act", "scale": 0.6},
    {"vector": "scaled"},
    {"vector": "a", "scale": 1.0, "restore_norm": True},
    {"vector": "a", "scale": 0.4, "unit": "token", "restore_norm": "if_longer"},
    {"vector": "a", "op": "add_below", "scale": 1.5, "value": 0.1},
    {"vector": "plane", "op": "rotate_adaptive", "value": 200.0},
    {"vector": "b", "op": "slerp", "scale": 0.3},
)


def program(*terms: dict[str, Any]) -> Program | None:
    return compile_program([SteerTerm.model_validate(each) for each in terms], SOURCES)


def fits(terms: list[dict[str, Any]]) -> bool:
    """All that is not refused is tried: also a term twice, or against itself."""
    try:
        return program(*terms) is not None
    except RequestError:
        return False


sets_of_terms = st.lists(st.sampled_from(ROWS), min_size=1, max_size=3).filter(fits)


@settings(max_examples=80)
@given(st.lists(sets_of_terms, min_size=1, max_size=4), st.integers(0, 99))
def test_each_token_gets_its_own_program_as_numpy_computes_it(
    chosen: list[list[dict[str, Any]]], seed: int
) -> None:
    draw = np.random.default_rng(seed)
    tables = allocate(EVERYTHING, slots=len(chosen) + 1, width=D_MODEL, device=CPU)
    programs = [program(*terms) for terms in chosen]
    for slot, each in enumerate(programs, 1):
        assert each is not None
        upload(tables, slot, each.layers[AT])
    hidden_TD = draw.normal(size=(12, D_MODEL)).astype(np.float32)
    slot_T = draw.integers(0, len(chosen) + 1, 12)
    coefficient_T = draw.normal(size=12).astype(np.float32)
    got_TD = edit_delta(
        torch.from_numpy(hidden_TD),
        torch.from_numpy(slot_T),
        torch.from_numpy(coefficient_T),
        tables,
    ).numpy()
    for t, slot in enumerate(slot_T):
        token_1D = hidden_TD[t : t + 1]
        if slot == 0:
            assert not got_TD[t].any()
            continue
        each = programs[slot - 1]
        assert each is not None
        wanted_1D = each.layers[AT].apply(token_1D, float(coefficient_T[t])) - token_1D
        assert np.abs(got_TD[t] - wanted_1D[0]).max() < 1e-4


def test_a_slerp_of_tokens_without_a_way_to_go_is_finite_and_as_numpy_computes_it() -> None:
    slerp = program({"vector": "a", "op": "slerp", "scale": 0.3})
    assert slerp is not None
    edit = slerp.layers[AT]
    turn = edit.get(Slerp)
    assert turn is not None
    tables = allocate(EditPlan(slerp=True), slots=2, width=D_MODEL, device=CPU)
    upload(tables, 1, edit)
    unit_D = turn.unit_D
    aside_D = np.roll(unit_D, 1) - unit_D * (np.roll(unit_D, 1) @ unit_D)
    hidden_TD = np.stack(
        [
            0 * unit_D,
            5 * unit_D,
            -5 * unit_D,
            aside_D,
            5 * unit_D + 1e-4 * aside_D,
            -5 * unit_D + 1e-4 * aside_D,
            -5 * unit_D + 0.1 * aside_D,
        ]
    ).astype(np.float32)
    got_TD = edit_delta(
        torch.from_numpy(hidden_TD),
        torch.ones(len(hidden_TD)).long(),
        torch.full((len(hidden_TD),), slerp.coefficient),
        tables,
    ).numpy()
    wanted_TD = edit.apply(hidden_TD, slerp.coefficient) - hidden_TD
    assert np.abs(got_TD - wanted_TD).max() < 1e-4
    assert not got_TD[[0, 2]].any() and got_TD[3].any()


def test_a_slot_that_is_used_again_keeps_nothing() -> None:
    tables = allocate(EVERYTHING, slots=2, width=D_MODEL, device=CPU)
    first = program(*ROWS[:1], *ROWS[3:4], *ROWS[6:9], *ROWS[9:10], *ROWS[11:])
    assert first is not None
    upload(tables, 1, first.layers[AT])
    upload(tables, 1, None)
    hidden_TD = torch.randn(3, D_MODEL)
    assert not edit_delta(hidden_TD, torch.ones(3).long(), torch.ones(3), tables).any()


def test_policies_follow_one_another_in_their_order() -> None:
    programs = [
        program({"vector": "a", "op": "ablate"}),
        program({"vector": "b", "scale": 1.0}),
        program({"vector": "b", "op": "set", "value": 1.0}),
    ]
    kept = [each for each in programs if each is not None]
    arrays, rows = stage_tables(kept, AT, D_MODEL, {})
    assert [each.target for each in rows] == [0, 2]
    hidden_TD = np.random.default_rng(3).normal(size=(4, D_MODEL)).astype(np.float32)
    strengths_TP = np.array([[1, 0, 0], [1, 0, 1], [0, 2, 1], [0, 0, 0]], np.float32)
    got_TD = policy_delta(
        torch.from_numpy(hidden_TD),
        torch.from_numpy(strengths_TP),
        policy_tables(arrays, WHOLE, rows, CPU),
    ).numpy()
    for t, strengths_P in enumerate(strengths_TP):
        token_1D = hidden_TD[t : t + 1].astype(np.float64)
        for p in (0, 2):
            token_1D = kept[p].layers[AT].apply(token_1D, float(strengths_P[p]))
        additions = kept[1].layers[AT].get(Additions)
        assert additions is not None
        wanted_D = token_1D[0] + strengths_P[1] * additions.addition_D - hidden_TD[t]
        assert np.abs(got_TD[t] - wanted_D).max() < 1e-5
    assert not got_TD[3].any()


class Ranks:
    """Threads that add up tensors as tensor-parallel ranks do."""

    def __init__(self, count: int, width: int = D_MODEL) -> None:
        self.count, self.width = count, width
        self._given: list[Tensor] = []
        self._complete = threading.Barrier(count)
        self._taken = threading.Barrier(count, action=self._given.clear)

    def all_reduce(self, part: Tensor) -> Tensor:
        self._given.append(part)
        self._complete.wait()
        total = sum(self._given[1:], self._given[0])
        self._taken.wait()
        return total

    def run(self, call: Callable[[slice], Tensor]) -> np.ndarray:
        """What each rank makes of its part of D, put together."""
        width = self.width // self.count
        parts = [slice(i * width, (i + 1) * width) for i in range(self.count)]
        with ThreadPoolExecutor(self.count) as pool:
            return np.concatenate([each.numpy() for each in pool.map(call, parts)], axis=1)


@pytest.mark.parametrize("chosen", [*ROWS, (ROWS[2], ROWS[9], ROWS[11])], ids=str)
def test_ranks_that_share_a_token_edit_it_as_one(chosen: Any) -> None:
    each = program(*([chosen] if isinstance(chosen, dict) else chosen))
    assert each is not None
    torch.manual_seed(4)
    hidden_TD = torch.randn(16, D_MODEL)
    slot_T, strength_T = torch.arange(16) % 2, torch.randn(16)
    ranks = Ranks(2)

    def one_rank(part: slice) -> Tensor:
        width = part.stop - part.start
        tables = allocate(EVERYTHING, slots=2, width=width, device=CPU)
        upload(tables, 1, each.layers[AT].part(part))
        return edit_delta(hidden_TD[:, part], slot_T, strength_T, tables, ranks.all_reduce)

    whole = allocate(EVERYTHING, slots=2, width=D_MODEL, device=CPU)
    upload(whole, 1, each.layers[AT])
    wanted_TD = edit_delta(hidden_TD, slot_T, strength_T, whole).numpy()
    assert np.abs(wanted_TD).max() > 0.01
    assert np.abs(ranks.run(one_rank) - wanted_TD).max() < 1e-4


def test_ranks_that_share_a_token_carry_out_policies_as_one() -> None:
    programs = [program({"vector": "a", "op": "ablate"}), program({"vector": "b", "scale": 1.0})]
    kept = [each for each in programs if each is not None]
    arrays, rows = stage_tables(kept, AT, D_MODEL, {})
    hidden_TD, strengths_TP, ranks = torch.randn(4, D_MODEL), torch.rand(4, 2), Ranks(2)

    def one_rank(part: slice) -> Tensor:
        tables = policy_tables(arrays, part, rows, CPU)
        return policy_delta(hidden_TD[:, part], strengths_TP, tables, ranks.all_reduce)

    whole = policy_tables(arrays, WHOLE, rows, CPU)
    wanted_TD = policy_delta(hidden_TD, strengths_TP, whole).numpy()
    assert np.abs(ranks.run(one_rank) - wanted_TD).max() < 1e-5


@pytest.mark.parametrize("name", [name for name in KINDS if name != ADDITIONS])
def test_there_are_tables_for_what_is_planned_and_for_nothing_else(name: str) -> None:
    flags = frozenset(flag.name for flag in KINDS[name].flags)
    edits = EditPlan(rank=2, tables=flags) if name == ROWS_KIND else EditPlan(tables=flags)
    tables = allocate(edits, slots=3, width=8, device=CPU)
    assert [each.name for each in tables.held] == [ADDITIONS, name]
    sizes = [each.numel() * each.element_size() for each in named_tensors(tables).values()]
    assert table_bytes(edits, slots=3, width=8, num_targets=0) == sum(sizes)


def test_every_kind_of_table_has_a_side_on_the_device_and_a_place() -> None:
    assert set(KINDS) == set(DEVICE_KINDS)
    assert [kind.order for kind in KINDS.values()] == sorted(
        {kind.order for kind in KINDS.values()}
    )
    first, *others = KINDS.values()
    assert first.name == ADDITIONS
    roles = [kind.role for kind in others]
    assert roles == sorted(roles), "maps come before what is written on them, the norm last"


def test_a_device_table_is_of_a_known_kind_and_comes_once() -> None:
    with pytest.raises(EngineError, match="device table 'additions': want one for each of"):
        register_device_table(DEVICE_KINDS[ADDITIONS])
    with pytest.raises(ConfigError, match="table 'slerp' of order 20: there is 'slerp'"):
        register_table(Slerp)


def test_a_program_that_the_tap_has_no_tables_for_is_no_upload() -> None:
    slerp = program({"vector": "a", "op": "slerp", "scale": 0.3})
    assert slerp is not None
    tables = allocate(EditPlan(), slots=2, width=D_MODEL, device=CPU)
    with pytest.raises(AssertionError, match=r"the tap has tables for \['slerp'\]"):
        upload(tables, 1, slerp.layers[AT])
