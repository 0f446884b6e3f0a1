"""The fold over the batch: any cut of the positions gives what one run gives."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.artifacts.catalog import Catalog
from pilothouse.engine.scheduler.authorship import Authorship
from pilothouse.engine.scheduler.messages import Emissions
from pilothouse.engine.scheduler.score_table import ScoreTable
from tests.support.engines.catalogs import probe, readout
from tests.support.engines.harness import make_plan, random_rows

PLAN = make_plan(
    Catalog(
        probes={
            "p": probe(
                "p",
                {0: random_rows(1, 1)[0], 1: random_rows(2, 1)[0]},
                {
                    "max": readout("prompt", "max"),
                    "last": readout("output", "last"),
                    "mean": readout("answer", "mean"),
                    "ema": readout("answer", "ema_max", 3.0),
                },
                bias=-0.5,
            ),
            "q": probe("q", {1: random_rows(3, 1)[0]}, {"mean": readout("prompt", "mean")}),
        }
    )
)
PROMPT, TOTAL = 7, 20
SCORES_TE = np.random.default_rng(0).normal(size=(TOTAL, 3)).astype(np.float32)


def step(name: str, start: int, stop: int) -> Emissions:
    return Emissions((name,), (start,), (stop - start,), SCORES_TE[start:stop])


def values_after(cuts: list[int], again: list[int] = ()) -> dict[str, float]:  # type: ignore[assignment]
    """Fold the run cut at `cuts`; positions from each of `again` on are fed once more."""
    watches = ScoreTable(PLAN)
    row = watches.open(PROMPT)
    bounds = [0, *sorted(set(cuts)), TOTAL]
    for start, stop in itertools.pairwise(bounds):
        for back in again:
            if back < start:
                watches.fold(step("r", back, start), {"r": row})
        watches.fold(step("r", start, stop), {"r": row})
    assert int(watches.scored_C[row]) == TOTAL
    return watches.values_of(row)


WHOLE = values_after([])


def test_a_probe_is_the_sum_of_its_columns_and_its_bias() -> None:
    logits_T = SCORES_TE[:, 0].astype(float) + SCORES_TE[:, 1] - 0.5
    want = 1 / (1 + np.exp(-logits_T[:PROMPT].max()))
    assert abs(WHOLE["p/max"] - want) < 1e-7
    want = 1 / (1 + np.exp(-SCORES_TE[:PROMPT, 2].astype(float).mean()))
    assert abs(WHOLE["q/mean"] - want) < 1e-7


@given(
    st.lists(st.integers(1, TOTAL - 1), max_size=TOTAL), st.lists(st.integers(0, 19), max_size=2)
)
def test_any_cut_and_any_repetition_gives_the_whole_runs_values(
    cuts: list[int], again: list[int]
) -> None:
    got = values_after(cuts, again)
    assert got.keys() == WHOLE.keys()
    assert all(abs(got[key] - WHOLE[key]) < 1e-5 for key in WHOLE)


@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.integers(0, 6), st.integers(1, 12), st.booleans()),
        min_size=1,
        max_size=6,
    )
)
def test_a_batch_of_runs_gives_what_each_request_gives_alone(
    requests: list[tuple[int, int, int, bool]],
) -> None:
    """Each with a prompt of its own length, begun elsewhere, some fed again, some with a gap."""
    names = tuple(f"r{i}" for i in range(len(requests)))
    scores = np.random.default_rng(1).normal(size=(len(names), 40, 3)).astype(np.float32)
    starts = tuple(max(0, begun + (2 if gap else -1)) for _, begun, _, gap in requests)
    counts = tuple(count for _, _, count, _ in requests)
    alone, together = ScoreTable(PLAN), ScoreTable(PLAN)
    rows = {name: alone.open(prompt) for name, (prompt, *_) in zip(names, requests, strict=True)}
    assert rows == {
        name: together.open(prompt) for name, (prompt, *_) in zip(names, requests, strict=True)
    }
    folded = []
    for i, (name, (_, begun, _, _)) in enumerate(zip(names, requests, strict=True)):
        for watches in (alone, together):
            if begun:
                first = Emissions((name,), (0,), (begun,), scores[i, :begun])
                watches.fold(first, rows)
        part = scores[i, starts[i] : starts[i] + counts[i]]
        folded.append(
            alone.fold(Emissions((name,), starts[i : i + 1], counts[i : i + 1], part), rows)
        )
    parts = zip(scores, starts, counts, strict=True)
    joined = np.concatenate([each[start : start + count] for each, start, count in parts])
    at_once = together.fold(Emissions(names, starts, counts, joined), rows)
    for table in ("cursor_C", "scored_C", "unscored_C"):
        assert np.array_equal(getattr(together, table), getattr(alone, table)), table
    np.testing.assert_allclose(together.values_CK, alone.values_CK, rtol=0, atol=1e-12)
    for what in ("prompt_done", "answered"):
        wanted = sorted(row for each in folded for row in getattr(each, what).tolist())
        assert sorted(getattr(at_once, what).tolist()) == wanted
    places = np.cumsum(counts) - counts
    wanted_spans = {
        row: (first + int(place), begin, count)
        for each, place in zip(folded, places, strict=True)
        for row, (first, begin, count) in each.spans.items()
    }
    assert at_once.spans == wanted_spans


def test_positions_that_were_skipped_are_counted_and_not_folded() -> None:
    watches = ScoreTable(PLAN)
    row = watches.open(PROMPT)
    folded = watches.fold(step("r", 5, 9), {"r": row})
    assert (int(watches.unscored_C[row]), int(watches.scored_C[row])) == (5, 4)
    assert folded.prompt_done.tolist() == [row]
    assert folded.spans == {row: (0, 5, 4)}


def test_rows_are_reused_clean_and_requests_in_one_step_do_not_mix() -> None:
    watches = ScoreTable(PLAN)
    rows = {name: watches.open(PROMPT) for name in "abcdefgh"}
    joined = Emissions(tuple(rows), (0,) * 8, (TOTAL,) * 8, np.concatenate([SCORES_TE] * 8))
    watches.fold(joined, rows)
    assert all(watches.values_of(row) == WHOLE for row in rows.values())
    watches.close(rows["a"])
    assert watches.open(3) == rows["a"]
    assert watches.values_of(rows["a"]) == {}


def test_single_tokens_of_many_requests_fold_like_each_alone() -> None:
    watches = ScoreTable(PLAN)
    rows = {name: watches.open(PROMPT) for name in "abc"}
    for start, stop in [(0, PROMPT), *((i, i + 1) for i in range(PROMPT, TOTAL))]:
        members = tuple(rows)
        size = stop - start
        watches.fold(
            Emissions(members, (start,) * 3, (size,) * 3, np.tile(SCORES_TE[start:stop], (3, 1))),
            rows,
        )
    for row in rows.values():
        got = watches.values_of(row)
        assert all(abs(got[key] - WHOLE[key]) < 1e-9 for key in WHOLE)


def test_an_overflow_in_one_probe_stays_its_own() -> None:
    watches = ScoreTable(PLAN)
    row = watches.open(2)
    scores_TE = SCORES_TE[:2].copy()
    scores_TE[:, 0] = np.inf
    watches.fold(Emissions(("r",), (0,), (2,), scores_TE), {"r": row})
    got = watches.values_of(row)
    assert "p/max" not in got
    want = 1 / (1 + np.exp(-SCORES_TE[:2, 2].astype(float).mean()))
    assert abs(got["q/mean"] - want) < 1e-9


def test_requests_nobody_watches_are_passed_over() -> None:
    watches = ScoreTable(PLAN)
    folded = watches.fold(step("r", 0, 4), {})
    assert (len(folded.prompt_done), len(folded.answered), folded.spans) == (0, 0, {})


ANCHORED = make_plan(
    Catalog(
        probes={
            "p": probe(
                "p",
                {0: random_rows(1, 1)[0]},
                {
                    "last": readout("prompt", "last"),
                    "max": readout("prompt", "max"),
                    "output": readout("output", "max"),
                    "answer": readout("answer", "mean"),
                },
            ),
        }
    )
)


def sigmoid(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


def authorship(anchors: list[int], answer_start: int, prompt: int = PROMPT) -> Authorship:
    return Authorship(prompt, np.array(anchors, np.int64), answer_start)


def anchored_after(
    cuts: list[int], anchors: list[int], marked: list[int], answer_start: int = PROMPT
) -> tuple[dict[str, float], list[int], float]:
    """Values of a run cut at `cuts`, the ends of the steps after which rows rose, and what is read
    at the newest anchor of the prompt."""
    watches = ScoreTable(ANCHORED)
    row = watches.open(authorship(anchors, answer_start))
    bounds, rose = [0, *sorted(set(cuts)), TOTAL], []
    for start, stop in itertools.pairwise(bounds):
        for position in marked:
            if start <= position < stop:
                watches.mark(row, position)
        emissions = Emissions(("r",), (start,), (stop - start,), SCORES_TE[start:stop, :1])
        if watches.fold(emissions, {"r": row}).again.tolist() == [row]:
            rose.append(stop)
    newest = watches.values_for_answer(np.array([row]))[0]
    names = [each.key for each in watches.signals]
    return watches.values_of(row), rose, float(newest[names.index("p/last")])


@given(
    st.lists(st.integers(1, TOTAL - 1), max_size=TOTAL),
    st.lists(st.integers(0, PROMPT - 1), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(PROMPT, TOTAL - 1), max_size=5, unique=True),
)
def test_a_readout_of_one_position_has_the_largest_value_of_all_its_anchors(
    cuts: list[int], anchors: list[int], marked: list[int]
) -> None:
    got, rose, newest = anchored_after(cuts, sorted(anchors), marked)
    logits_T = SCORES_TE[:, 0].astype(float)
    assert abs(got["p/last"] - max(map(sigmoid, logits_T[[*anchors, *marked]]))) < 1e-7
    assert abs(newest - sigmoid(logits_T[max(anchors)])) < 1e-7
    assert abs(got["p/max"] - sigmoid(logits_T[:PROMPT].max())) < 1e-7
    stops = [*sorted({*cuts, TOTAL})]
    assert rose == [
        stop
        for start, stop in itertools.pairwise([0, *stops])
        if any(start <= position < stop for position in marked)
    ]


def test_what_a_client_wrote_of_the_answer_belongs_to_it() -> None:
    got, *_ = anchored_after([5, 9, 10], [3], [], answer_start=4)
    logits_T = SCORES_TE[:, 0].astype(float)
    assert abs(got["p/output"] - sigmoid(logits_T[4:].max())) < 1e-7
    assert abs(got["p/answer"] - sigmoid(logits_T[3:].mean())) < 1e-7


@given(st.lists(st.integers(1, TOTAL - 1), max_size=TOTAL), st.integers(1, PROMPT))
def test_what_a_client_wrote_of_the_answer_is_shown_position_by_position(
    cuts: list[int], answer_start: int
) -> None:
    """As if the prompt ended at each of them: values of the whole so far, whatever the cuts."""
    watches = ScoreTable(ANCHORED)
    row = watches.open(authorship([answer_start - 1], answer_start))
    shown: dict[int, np.ndarray] = {}
    for start, stop in itertools.pairwise([0, *sorted(set(cuts)), TOTAL]):
        emissions = Emissions(("r",), (start,), (stop - start,), SCORES_TE[start:stop, :1])
        for each in watches.fold(emissions, {"r": row}).supplied:
            shown |= {each.begin + i: values_K for i, values_K in enumerate(each.values_SK)}
    expected = range(answer_start - 1, PROMPT) if answer_start < PROMPT else ()
    assert sorted(shown) == list(expected)
    names = [each.key for each in watches.signals]
    logits_T = SCORES_TE[:, 0].astype(float)
    for position, values_K in shown.items():
        mean = logits_T[answer_start - 1 : position + 1].mean()
        assert abs(values_K[names.index("p/answer")] - sigmoid(mean)) < 1e-7
        if position >= answer_start:
            top = logits_T[answer_start : position + 1].max()
            assert abs(values_K[names.index("p/output")] - sigmoid(top)) < 1e-7


def test_marks_of_one_request_are_nobody_elses_and_go_with_it() -> None:
    watches = ScoreTable(ANCHORED)
    rows = {name: watches.open(PROMPT) for name in "ab"}
    for name in rows:
        whole = Emissions((name,), (0,), (PROMPT,), SCORES_TE[:PROMPT, :1])
        watches.fold(whole, rows)
    watches.mark(rows["a"], PROMPT)
    watches.mark(rows["a"], PROMPT - 1)
    both = Emissions(("a", "b"), (PROMPT,) * 2, (1, 1), np.full((2, 1), 9.0, np.float32))
    assert watches.fold(both, rows).again.tolist() == [rows["a"]]
    assert watches.values_of(rows["a"])["p/last"] > 0.99
    assert watches.values_of(rows["b"])["p/last"] == WHOLE_PROMPT
    watches.mark(rows["a"], PROMPT + 1)
    watches.close(rows["a"])
    again = watches.open(PROMPT)
    whole = Emissions(("c",), (0,), (TOTAL,), SCORES_TE[:, :1])
    assert watches.fold(whole, {"c": again}).again.tolist() == []


WHOLE_PROMPT = anchored_after([], [PROMPT - 1], [])[0]["p/last"]
