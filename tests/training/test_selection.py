"""Where a search looks next, what it takes, and what speaks against that."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.artifacts.manifest import Interval
from pilothouse.training.report import Cell, Figures, LayerFit, Trial
from pilothouse.training.selection import (
    best_strength,
    choose,
    findings,
    first_strength,
    fluency_limit,
    furthest,
    next_strength,
    notes,
    ranks,
    reach,
    standing,
)

SCALES = (0.05, 0.1, 0.2, 0.4)
LIMIT = 1.2


def layer(slope: float, end: float, peak: float = 9.0):  # type: ignore[no-untyped-def]
    """Figures by strength of a layer that stays fluent up to `end` and does most at `peak`."""

    def figures(scale: float) -> Figures:
        drift = math.log(LIMIT) * (scale / end) ** 2
        effect = slope * (scale if scale <= peak else 2 * peak - scale)
        return Figures(
            effect=effect, moved=1.0, perplexity_ratio=math.exp(drift), choices_kept=None, kl=0.0
        )

    return figures


def walked(figures, start: float, rounds: int = 6, *, finer: bool = True) -> dict[float, Figures]:  # type: ignore[no-untyped-def]
    tried: dict[float, Figures] = {}
    at: float | None = start
    for _ in range(rounds):
        if at is None:
            break
        tried[at] = figures(at)
        at = next_strength(tried, SCALES, LIMIT, finer=finer)
    return tried


@given(st.floats(0.1, 9.0), st.floats(0.05, 0.4), st.sampled_from(SCALES))
def test_one_measurement_tells_the_limit_and_the_reach_of_a_layer_that_follows_the_law(
    slope: float, end: float, scale: float
) -> None:
    shown = layer(slope, end)(scale)
    assert fluency_limit(shown, scale, LIMIT, SCALES) == pytest.approx(end, rel=1e-6)
    assert reach(shown, scale, LIMIT, SCALES) == pytest.approx(slope * end, rel=1e-6)


def test_a_limit_lies_within_the_strengths_that_are_tried() -> None:
    assert fluency_limit(layer(1.0, 7.0)(0.1), 0.1, LIMIT, SCALES) == 0.4
    assert fluency_limit(layer(1.0, 0.01)(0.1), 0.1, LIMIT, SCALES) == 0.05
    more_fluent = layer(1.0, 1.0)(0.1).model_copy(update={"perplexity_ratio": 0.9})
    assert fluency_limit(more_fluent, 0.1, LIMIT, SCALES) == 0.4


def test_a_layer_that_does_much_but_breaks_early_does_not_reach_far() -> None:
    loud, sound = layer(9.0, 0.03), layer(2.0, 0.3)
    reaches = {n: reach(each(0.1), 0.1, LIMIT, SCALES) for n, each in enumerate((loud, sound))}
    assert loud(0.1).effect > sound(0.1).effect
    assert furthest(reaches, 1) == (1,)


def test_of_equal_reaches_the_lower_layer_comes_first() -> None:
    assert furthest({7: 1.0, 3: 1.0, 5: 2.0}, 2) == (5, 3)


def test_a_search_begins_at_the_largest_strength_below_the_limit() -> None:
    assert [first_strength(each, SCALES) for each in (0.01, 0.1, 0.15, 9.0)] == [
        0.05,
        0.1,
        0.1,
        0.4,
    ]


@given(st.floats(0.06, 0.39), st.sampled_from(SCALES))
def test_six_steps_come_near_the_limit_from_wherever_they_begin(end: float, start: float) -> None:
    tried = walked(layer(1.0, end), start)
    best = best_strength(tried, LIMIT)
    assert best <= end * (1 + 1e-9)
    assert best >= end / 1.5


@given(st.floats(0.05, 0.4), st.sampled_from(SCALES))
def test_no_strength_is_tried_twice_nor_outside_of_those_that_were_given(
    end: float, start: float
) -> None:
    tried = walked(layer(1.0, end), start, rounds=20)
    assert len(tried) < 20
    assert all(min(SCALES) <= each <= max(SCALES) for each in tried)


def test_given_strengths_alone_are_tried_where_no_finer_ones_may_be() -> None:
    assert set(walked(layer(1.0, 0.15), 0.05, finer=False)) == {0.05, 0.1, 0.2}
    assert set(walked(layer(1.0, 0.15), 0.05)) > {0.05, 0.1, 0.2}


def test_where_more_strength_does_less_the_search_turns_back() -> None:
    tried = walked(layer(1.0, 3.0, peak=0.13), 0.1, rounds=8)
    assert best_strength(tried, LIMIT) == pytest.approx(0.13, rel=0.1)


def test_where_nothing_is_fluent_it_goes_down_and_ends() -> None:
    tried = walked(layer(1.0, 0.01), 0.2)
    assert set(tried) == {0.05, 0.1, 0.2}
    assert best_strength(tried, LIMIT) == 0.05


def test_fluent_candidates_stand_before_all_others() -> None:
    weak, strong = layer(0.1, 1.0)(0.1), layer(9.0, 0.05)(0.1)
    assert standing(weak, LIMIT) > standing(strong, LIMIT)
    assert standing(layer(9.0, 0.09)(0.1), LIMIT) > standing(strong, LIMIT)


def test_ranks_begin_with_the_largest() -> None:
    assert ranks([0.5, 2.0, -1.0, 2.0]) == [3, 1, 4, 2]


def cell(effect: float, ratio: float = 1.0, layer: int = 0, kind: str = "fitted") -> Cell:
    figures = Figures(effect=effect, moved=1.0, perplexity_ratio=ratio, choices_kept=None, kl=0.0)
    return Cell(kind=kind, draw=0, layer=layer, scale=0.1, figures=figures)


def about(estimate: float, half: float) -> Interval:
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half)


def measured(
    effect: Interval,
    random: Interval,
    shuffled: Interval,
    ratio: float = 1.0,
    control: float = 0.0,
) -> Trial:
    over = {"random": random, "shuffled": shuffled}
    controls = [cell(control, kind="random"), cell(0.0, kind="shuffled")]
    cells = (cell(effect.estimate, ratio), *controls)
    return Trial(cells=cells, effect=effect, effect_over=over)


def test_the_largest_effect_that_stays_fluent_is_chosen() -> None:
    cells = [cell(1.0, 1.1), cell(2.0, 1.19, layer=1), cell(9.0, 1.3), cell(5.0, kind="random")]
    assert choose(cells, 1.2) == cells[1]


def test_where_nothing_stays_fluent_the_least_drift_is_chosen() -> None:
    assert choose([cell(9.0, 3.0), cell(1.0, 2.0)], 1.2).figures.effect == 1.0


def test_a_clear_effect_has_no_findings() -> None:
    assert findings(measured(about(1, 0.5), about(1, 0.5), about(1, 0.9)), 1.2) == ()


@pytest.mark.parametrize(
    ("test", "told"),
    [
        (measured(about(1, 1.5), about(1, 0.5), about(1, 0.5)), "no effect is shown"),
        (measured(about(1, 0.5), about(0.1, 0.5), about(1, 0.5)), "no better than a random"),
        (measured(about(1, 0.5), about(1, 0.5), about(0.1, 0.5)), "no better than shuffled"),
        (measured(about(1, 0.5), about(1, 0.5), about(1, 0.5), 1.5), "fluency is lost"),
        (measured(about(1, 0.5), about(1, 0.5), about(1, 0.5), 1.0, 1.1), "does as much: a random"),
    ],
)
def test_each_doubt_is_a_finding(test: Trial, told: str) -> None:
    [found] = findings(test, 1.2)
    assert told in found


def test_few_groups_and_unsteady_directions_are_noted() -> None:
    layer = LayerFit(layer=0, length=1.0, residual_norm=1.0, bootstrap_cosine=about(0.5, 0.1))
    steady = layer.model_copy(update={"bootstrap_cosine": about(0.95, 0.01)})
    assert len(notes(layer, 5, ["edge"])) == 3
    assert notes(steady, 50, []) == ()
