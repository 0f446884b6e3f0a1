"""What to choose of a sweep, and what a careful reader would object to the choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pilothouse.training.report import CONTROLS, Cell, LayerFit, Trial

STEADY_COSINE = 0.8
FEW_GROUPS = 20


def choose(cells: Iterable[Cell], max_perplexity_ratio: float) -> Cell:
    """The fitted vector's cell with the largest effect among those that stay fluent.

    Where none does, the one that drifts least.
    """
    fitted = [each for each in cells if each.kind == "fitted"]
    fluent = [each for each in fitted if each.figures.perplexity_ratio <= max_perplexity_ratio]
    if not fluent:
        return min(fitted, key=lambda each: each.figures.perplexity_ratio)
    return max(fluent, key=lambda each: each.figures.effect)


def findings(test: Trial, max_perplexity_ratio: float) -> tuple[str, ...]:
    """Why the vector should not be trusted, as measured on test pairs; empty is good."""
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
    """What to keep in mind, though it is no fault."""
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
