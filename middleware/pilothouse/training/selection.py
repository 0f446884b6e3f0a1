"""The choice of layer and strength: where to look next, what to take, and what speaks against it.

A screen measures every layer at one strength. To first order an edit's effect grows with its
strength and the logarithm of the perplexity ratio with the square of it, so that one measurement
tells about where the fluency limit lies, and which effect is had there: a layer's reach. The
layers that reach furthest are searched, each by steps along a ladder of strengths that becomes
finer around its best rung.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from pilothouse.training.report import CONTROLS, Cell, Figures, LayerFit, Trial

Tried = Mapping[float, Figures]
"""What was measured of one layer, by strength."""

FINEST = 1.15
"""Strengths closer than this ratio are not told apart."""
LEAST_DRIFT = 1e-3
"""Logarithms of perplexity ratios that are smaller are not told from 0."""
STEADY_COSINE = 0.8
FEW_GROUPS = 20


def fluency_limit(
    figures: Figures, scale: float, max_perplexity_ratio: float, scales: Sequence[float]
) -> float:
    """Estimate the largest strength that stays fluent, within the range of `scales`.

    Args:
        figures: what was measured at `scale`.
        scale: a strength that was measured.
        max_perplexity_ratio: how much less fluent a choice may be.
        scales: the strengths to try.
    """
    drift = math.log(max(figures.perplexity_ratio, math.exp(LEAST_DRIFT)))
    limit = scale * math.sqrt(math.log(max_perplexity_ratio) / drift)
    return min(max(limit, min(scales)), max(scales))


def reach(
    figures: Figures, scale: float, max_perplexity_ratio: float, scales: Sequence[float]
) -> float:
    """Estimate the effect at the fluency limit, by what was measured at `scale`."""
    return figures.effect * fluency_limit(figures, scale, max_perplexity_ratio, scales) / scale


def furthest(reaches: Mapping[int, float], count: int) -> tuple[int, ...]:
    """Return the layers of the largest reach, furthest first; of equals the lower layer."""
    ranked = sorted(reaches, key=lambda layer: (-reaches[layer], layer))
    return tuple(ranked[:count])


def first_strength(limit: float, scales: Sequence[float]) -> float:
    """Return the rung to begin at: the largest that is not over a limit, or the lowest."""
    return max((each for each in scales if each <= limit), default=min(scales))


def next_strength(
    tried: Tried, scales: Sequence[float], max_perplexity_ratio: float, *, finer: bool
) -> float | None:
    """Return the strength to try next at a layer; None where nothing is left to try.

    From the best strength it goes up while that stays fluent and does more, and down where nothing
    was fluent. Between neighbours that were both tried it goes on half-way, if `finer`.

    Args:
        tried: the figures of what was tried at the layer.
        scales: the ladder to begin with.
        max_perplexity_ratio: how much less fluent a choice may be.
        finer: whether strengths between those of the ladder are tried too.
    """
    ladder = sorted({*scales, *tried})
    best = best_strength(tried, max_perplexity_ratio)
    place = ladder.index(best)
    below = ladder[place - 1] if place else None
    above = ladder[place + 1] if place + 1 < len(ladder) else None
    if not _is_fluent(tried[best], max_perplexity_ratio):
        return below if below not in tried else None
    if above is not None and above not in tried:
        return above
    halves = [] if above is None else [_between(best, above)]
    overshot = above is not None and _is_fluent(tried[above], max_perplexity_ratio)
    if below is not None and overshot:  # more strength did less: the best may lie on either side
        if below not in tried:
            return below
        halves.insert(0, _between(below, best))
    return next((each for each in halves if finer and each is not None), None)


def best_strength(tried: Tried, max_perplexity_ratio: float) -> float:
    """Return the strength of the largest effect that stays fluent, else of the least drift."""
    return max(tried, key=lambda scale: (standing(tried[scale], max_perplexity_ratio), -scale))


def standing(figures: Figures, max_perplexity_ratio: float) -> tuple[bool, float]:
    """Return what candidates are ordered by: fluent ones by effect, the others by their drift."""
    if _is_fluent(figures, max_perplexity_ratio):
        return True, figures.effect
    return False, -figures.perplexity_ratio


def ranks(values: Iterable[float]) -> list[int]:
    """Return each value's place in the order from the largest, from 1; ties in their order."""
    numbered = sorted(enumerate(values), key=lambda each: (-each[1], each[0]))
    places = {index: place for place, (index, _) in enumerate(numbered, 1)}
    return [places[index] for index in range(len(numbered))]


def _between(one: float, other: float) -> float | None:
    """Return the strength half-way by ratio, to two digits; None where the ends are one."""
    low, high = sorted((one, other))
    if high / low < FINEST**2:
        return None
    return float(f"{math.sqrt(low * high):.2g}")


def _is_fluent(figures: Figures, max_perplexity_ratio: float) -> bool:
    return figures.perplexity_ratio <= max_perplexity_ratio


def choose(cells: Iterable[Cell], max_perplexity_ratio: float) -> Cell:
    """Return the fitted vector's cell with the largest effect among those that stay fluent.

    Where none does, it is the one that drifts least.
    """
    fitted = [each for each in cells if each.kind == "fitted"]
    fluent = [each for each in fitted if each.figures.perplexity_ratio <= max_perplexity_ratio]
    if not fluent:
        return min(fitted, key=lambda each: each.figures.perplexity_ratio)
    return max(fluent, key=lambda each: each.figures.effect)


def findings(test: Trial, max_perplexity_ratio: float) -> tuple[str, ...]:
    """Return why the vector should not be trusted, as measured on test pairs; empty is good."""
    fitted = next(each.figures for each in test.cells if each.kind == "fitted")
    found = []
    if test.effect.low <= 0:
        found.append(
            f"no effect is shown: {test.effect.estimate:.4g} nats a token, 95% interval from "
            f"{test.effect.low:.4g}"
        )
    words = {"random": "a random vector of equal length", "shuffled": "shuffled labels"}
    for control in CONTROLS:
        over = test.effect_over[control]
        if over.low <= 0:
            found.append(
                f"effect no better than {words[control]}: {over.estimate:.4g} more, 95% interval "
                f"from {over.low:.4g}"
            )
            continue
        strongest = max(each.figures.effect for each in test.cells if each.kind == control)
        if strongest >= fitted.effect:
            found.append(
                f"one of the controls does as much: {words[control]}, {strongest:.4g} nats a token"
            )
    if fitted.perplexity_ratio > max_perplexity_ratio:
        found.append(
            f"fluency is lost: perplexity times {fitted.perplexity_ratio:.3g}, want at most "
            f"{max_perplexity_ratio:g}"
        )
    return tuple(found)


def notes(layer: LayerFit, test_groups: int, edges: Sequence[str]) -> tuple[str, ...]:
    """Return what to keep in mind, though it is no fault."""
    said = list(edges)
    if layer.bootstrap_cosine.estimate < STEADY_COSINE:
        said.append(
            f"the direction is unsteady: refits have a mean cosine of "
            f"{layer.bootstrap_cosine.estimate:.2f} with it; more pairs would help"
        )
    if test_groups < FEW_GROUPS:
        said.append(
            f"only {test_groups} groups test it: intervals from so few tend to be too narrow"
        )
    return tuple(said)
