"""Directions and their controls, layer by layer, out of states that the engine gave.

Shape suffixes: L layers, N texts, F numbers of a state, M features, D width of the site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pilothouse.cli.fit_order import FitOrder, Material, Part
from pilothouse.cli.fit_stand import Reduce, Stand, States
from pilothouse.contrast.control import bootstrap_cosines, random_direction, shuffled_direction
from pilothouse.contrast.difference import mean_difference
from pilothouse.contrast.features import FeatureSelection
from pilothouse.contrast.method import METHODS, Method
from pilothouse.contrast.report import (
    LayerFit,
)
from pilothouse.contrast.sample import Floats, Sample
from pilothouse.edit.sae_codes import encode
from pilothouse.errors import ConfigError
from pilothouse.model.manifest import Interval
from pilothouse.model.sae.autoencoder import Sae
from pilothouse.progress import Phase

RANDOM_LINES, RANDOM_LENGTH = 32, 32
REDUCE: Mapping[str, Reduce] = {
    "mean": lambda rows_TF: rows_TF.mean(axis=0),
    "last": lambda rows_TF: rows_TF[-1],
    "first": lambda rows_TF: rows_TF[0],
}


class Directions(NamedTuple):
    """Of each layer the fitted direction and its controls, by the name they are loaded under."""

    by_name: dict[str, Floats]
    norms_L: Floats
    layers: tuple[LayerFit, ...]


def collected(
    order: FitOrder, stand: Stand, part: Part, layers: Sequence[int], reduce: Reduce, phase: Phase
) -> States:
    """States of both sides of a part's pairs, positives first."""
    lines = (*part.positives, *part.negatives)
    return stand.states(lines, layers, order.site, reduce, phase("states", len(lines)))


def directions_of(
    order: FitOrder,
    stand: Stand,
    texts: Material,
    layers: tuple[int, ...],
    sae: Sae | None,
    tuned: States | None,
    phase: Phase,
) -> Directions:
    """Of each layer the fitted direction, its controls and its steadiness.

    Raises:
        ConfigError: states that the method cannot be fitted on, or a tuned model of another form.
    """
    # Of a tuned model the states take the place of the positives.
    reduce, method = REDUCE[order.token], METHODS.get(order.method, mean_difference)
    if sae is not None:
        reduce, method = _by_codes(sae, reduce), _selection(order, stand, sae, phase)
    states = collected(order, stand, texts.fit, layers, reduce, phase)
    groups = np.array(texts.fit.groups, np.str_)
    half = len(groups)
    if tuned is not None:
        _check_same(tuned, states)
        positive_LNF, negative_LNF = tuned.states_LNF, states.states_LNF
        groups = np.tile(groups, 2)
    else:
        positive_LNF, negative_LNF = states.states_LNF[:, :half], states.states_LNF[:, half:]
    advance = phase("directions", len(layers))
    by_name: dict[str, list[Floats]] = {}
    fits = []
    for index, layer in enumerate(layers):
        sample = Sample(positive_LNF[index], negative_LNF[index], groups)
        generator = np.random.default_rng([order.seed, layer])
        fitted = method(sample)
        length = float(np.linalg.norm(fitted.direction_D))
        by_name.setdefault("fitted-0", []).append(fitted.direction_D)
        for draw in range(order.controls):
            by_name.setdefault(f"random-{draw}", []).append(
                random_direction(length, len(fitted.direction_D), generator)
            )
            by_name.setdefault(f"shuffled-{draw}", []).append(
                shuffled_direction(method, sample, length, generator)
            )
        cosines = bootstrap_cosines(method, sample, order.resamples, generator)
        low, high = np.quantile(cosines, [0.025, 0.975])
        mean = float(cosines.mean())
        fits.append(
            LayerFit(
                layer=layer, length=length, residual_norm=float(states.norms_L[index]),
                bootstrap_cosine=Interval(
                    estimate=mean, low=min(float(low), mean), high=max(float(high), mean)
                ),
                facts=dict(fitted.facts),
            )
        )  # fmt: skip
        advance(1)
    return Directions({k: np.array(v) for k, v in by_name.items()}, states.norms_L, tuple(fits))


def _by_codes(sae: Sae, reduce: Reduce) -> Reduce:
    return lambda rows_TD: reduce(encode(sae, rows_TD))


def _selection(order: FitOrder, stand: Stand, sae: Sae, phase: Phase) -> Method:
    lines = stand.random_lines(RANDOM_LINES, RANDOM_LENGTH, order.seed)

    def rate(rows_TD: Floats) -> Floats:
        rate_M: Floats = (encode(sae, rows_TD) != 0).mean(axis=0)
        return rate_M

    advance = phase("random tokens", len(lines))
    rates = stand.states(lines, [sae.tap.layer], order.site, rate, advance)
    return FeatureSelection(sae, rates.states_LNF[0].mean(axis=0), order.features)


def _check_same(tuned: States, states: States) -> None:
    if tuned.states_LNF.shape != states.states_LNF.shape:
        raise ConfigError(
            f"--tuned: has states of shape {tuned.states_LNF.shape[::2]} (layers, width), want "
            f"{states.states_LNF.shape[::2]} as --model has: give a fine-tuned form of that model"
        )
