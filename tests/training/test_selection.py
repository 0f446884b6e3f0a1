"""What is chosen of a sweep, and what is found against it."""

from __future__ import annotations

import pytest

from pilothouse.artifacts.manifest import Interval
from pilothouse.training.report import Cell, Figures, LayerFit, Trial
from pilothouse.training.selection import choose, findings, notes


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
