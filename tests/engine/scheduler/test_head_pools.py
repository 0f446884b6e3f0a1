"""Probes whose heads pool, in the score table: any cut of the positions, any batch, any scope."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.artifacts.catalog import Catalog
from pilothouse.artifacts.probe import Probe
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.scheduler.authorship import Authorship
from pilothouse.engine.scheduler.messages import Emissions
from pilothouse.engine.scheduler.score_table import ScoreTable
from pilothouse.errors import ConfigError
from pilothouse.head import Head
from pilothouse.types import Aggregate
from tests.reference.aggregation import aggregated
from tests.reference.heads import head_logit
from tests.support.engines.catalogs import headed_probe, probe, readout
from tests.support.engines.harness import make_plan, random_rows

LAYERS = (0, 2)
HEADS = {
    "attention": Head(kind="attention", heads=3),
    "efficient": Head(kind="efficient_probing", heads=2, values_per_head=3),
    "multimax": Head(kind="multimax", heads=3),
    "rolling": Head(kind="rolling_attention", heads=2, window=4, order="sum_then_max"),
    "latched": Head(kind="rolling_attention", heads=2, window=5, order="max_then_sum"),
}
READOUTS = {
    "prompt": ("prompt", "last", None),
    "prompt-mean": ("prompt", "mean", None),
    "output": ("output", "last", None),
    "answer-peak": ("answer", "ema_max", 2.0),
}
BIAS = 0.25
PROMPT, TOTAL, WIDTH = 7, 20, 64
STATES_LTD = np.random.default_rng(0).normal(size=(4, TOTAL, WIDTH)).astype(np.float32)
each_head = pytest.mark.parametrize("kind", HEADS)


def probes(kind: str) -> dict[str, Probe]:
    """A pooled probe between two linear ones."""
    readouts = {name: readout(scope, how, half) for name, (scope, how, half) in READOUTS.items()}
    now = {"now": readout("output", "last")}
    return {
        "a": probe("a", {0: random_rows(1, 1)[0], 2: random_rows(2, 1)[0]}, now),
        "p": headed_probe("p", LAYERS, HEADS[kind], readouts, bias=BIAS, seed=3, scale=0.2),
        "z": probe("z", {2: random_rows(3, 1)[0]}, now),
    }


def plan_of(kind: str) -> Plan:
    return make_plan(Catalog(probes=probes(kind)))


def scores_of(plan: Plan, states_LTD: np.ndarray) -> np.ndarray:
    """What a plan's columns hold of each token."""
    scores_TE = np.zeros((states_LTD.shape[1], plan.body.num_columns), np.float32)
    for tap in plan.body.taps:
        rows_DE = plan.tensors[f"reads/{tap.layer}/{tap.site}"]
        scores_TE[:, tap.read_start : tap.read_stop] = states_LTD[tap.layer] @ rows_DE
    return scores_TE


def sigmoid(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


def logits_of(kind: str, low: int, high: int) -> list[float]:
    """What the head made of the tokens from `low` on, after each."""
    made = probes(kind)["p"]
    states = STATES_LTD[list(LAYERS)]
    return [
        head_logit(made.head, made.tensors, states[:, low : stop + 1]) + BIAS
        for stop in range(low, high)
    ]


def wanted(kind: str, prompt: int = PROMPT, answer_start: int | None = None) -> dict[str, float]:
    start = prompt if answer_start is None else answer_start
    bounds = {"prompt": (0, prompt), "output": (start, TOTAL), "answer": (start - 1, TOTAL)}
    return {
        f"p/{name}": sigmoid(aggregated(Aggregate(how, half), logits_of(kind, *bounds[scope])))
        for name, (scope, how, half) in READOUTS.items()
    }


def fold(
    table: ScoreTable, rows: Mapping[str, int], start: int, stop: int, scores_TE: np.ndarray
) -> object:
    names = tuple(rows)
    count = stop - start
    tiled = np.tile(scores_TE[start:stop], (len(names), 1))
    return table.fold(Emissions(names, (start,) * len(names), (count,) * len(names), tiled), rows)


@each_head
@given(
    cuts=st.lists(st.integers(1, TOTAL - 1), max_size=TOTAL),
    again=st.lists(st.integers(0, TOTAL - 1), max_size=2),
    together=st.integers(1, 3),
    supplied=st.integers(0, 3),
)
def test_any_cut_and_any_repetition_gives_the_definition_of_the_whole_run(
    kind: str, cuts: list[int], again: list[int], together: int, supplied: int
) -> None:
    plan = plan_of(kind)
    table, scores_TE = ScoreTable(plan), scores_of(plan, STATES_LTD)
    begun = PROMPT - supplied
    authorship = Authorship(PROMPT, np.array([begun - 1], np.int64), begun)
    rows = {f"r{i}": table.open(authorship) for i in range(together)}
    for start, stop in itertools.pairwise([0, *sorted(set(cuts)), TOTAL]):
        for back in again:
            if back < start:
                fold(table, rows, back, start, scores_TE)
        fold(table, rows, start, stop, scores_TE)
    want = wanted(kind, answer_start=begun)
    for row in rows.values():
        got = table.values_of(row)
        assert {key: got[key] for key in want} == pytest.approx(want, abs=1e-5)


@each_head
def test_a_row_is_reused_clean(kind: str) -> None:
    plan = plan_of(kind)
    table, scores_TE = ScoreTable(plan), scores_of(plan, STATES_LTD)
    first = table.open(PROMPT)
    fold(table, {"r": first}, 0, TOTAL, scores_TE)
    before = table.values_of(first)
    table.close(first)
    assert table.open(PROMPT) == first
    assert table.values_of(first) == {}
    fold(table, {"r": first}, 0, TOTAL, scores_TE)
    assert table.values_of(first) == before


@each_head
def test_what_is_told_of_single_tokens_is_the_output_so_far(kind: str) -> None:
    plan = plan_of(kind)
    table, scores_TE = ScoreTable(plan), scores_of(plan, STATES_LTD)
    row = table.open(PROMPT)
    told = []
    for start, stop in [(0, 9), (9, 10), (10, 11), (11, TOTAL)]:
        emissions = Emissions(("r",), (start,), (stop - start,), scores_TE[start:stop])
        folded = table.fold(emissions, {"r": row})
        told.append(folded.logits_TQ[max(0, PROMPT - start) :, table.probes.index("p")])
    assert np.concatenate(told) == pytest.approx(logits_of(kind, PROMPT, TOTAL), abs=1e-4)


@each_head
def test_a_token_that_cannot_be_scored_is_no_low_score_and_stays_its_own(kind: str) -> None:
    plan = plan_of(kind)
    table, scores_TE = ScoreTable(plan), scores_of(plan, STATES_LTD)
    scores_TE[3, list(plan.body.probes["p"].columns[:1])] = np.inf
    row = table.open(PROMPT)
    fold(table, {"r": row}, 0, TOTAL, scores_TE)
    got = table.values_of(row)
    assert not any(key.startswith("p/prompt") for key in got)
    want = wanted(kind)
    assert got["p/output"] == pytest.approx(want["p/output"], abs=1e-5)
    assert "a/now" in got
    assert "z/now" in got


@each_head
def test_a_linear_probe_reads_the_same_beside_one_that_pools(kind: str) -> None:
    alone = make_plan(Catalog(probes={"a": probes(kind)["a"]}))
    values = []
    for plan in (alone, plan_of(kind)):
        table, scores_TE = ScoreTable(plan), scores_of(plan, STATES_LTD)
        row = table.open(PROMPT)
        fold(table, {"r": row}, 0, TOTAL, scores_TE)
        values.append(table.values_of(row)["a/now"])
    assert values[0] == pytest.approx(values[1], abs=1e-7)


def test_more_than_is_allowed_is_refused_as_it_is_loaded() -> None:
    loaded = Catalog(probes=probes("attention"))
    columns = 2 * 3 * len(LAYERS) + 3
    make_plan(loaded, limits={"max_read_columns": columns})
    with pytest.raises(
        ConfigError, match=rf"max_read_columns: got {columns} .* 12 of them for 'p'"
    ):
        make_plan(loaded, limits={"max_read_columns": columns - 1})
    with pytest.raises(ConfigError, match=r"head_state_kib: got 0.2 KiB .*at most 0"):
        make_plan(loaded, limits={"max_head_state_kib": 0})
