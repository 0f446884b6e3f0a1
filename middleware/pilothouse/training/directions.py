"""Directions and their controls, layer by layer, out of states that the engine gave.

Shape suffixes: L layers, N texts, T tokens, F numbers of a state, M features, D width of the site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pilothouse.artifacts.manifest import Interval
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.edits.sae_codes import encode
from pilothouse.errors import ConfigError, argument
from pilothouse.progress import Advance
from pilothouse.training.controls import bootstrap_cosines, random_direction, shuffled_direction
from pilothouse.training.fit_engine import FitEngine, Reduce, States
from pilothouse.training.fit_options import FitOptions, Part
from pilothouse.training.measure import separation
from pilothouse.training.methods import (
    METHODS,
    FeatureSelection,
    Fitted,
    Floats,
    Method,
    Sample,
    mean_difference,
)
from pilothouse.training.report import LayerFit
from pilothouse.training.stages import Tell

RANDOM_LINES, RANDOM_LENGTH = 32, 32
REDUCE: Mapping[str, Reduce] = {
    "mean": lambda rows_TF: rows_TF.mean(axis=0),
    "last": lambda rows_TF: rows_TF[-1],
    "first": lambda rows_TF: rows_TF[0],
}


class Directions:
    """The fitted direction of each layer and, where they are asked for, its controls.

    Args:
        options: those of the fit.
        layers: those that states are of.
        method: makes a direction of a sample.
        states: those of the pairs that fit, positives first, or of both sides where `tuned` is
            given.
        groups: the group of each pair.
        tuned: states of a tuned model, in the place of the positives.
        advance: told of each layer that is done.

    Raises:
        ConfigError: states that the method cannot be fitted on, or a tuned model of another form.
    """

    def __init__(
        self,
        options: FitOptions,
        layers: tuple[int, ...],
        method: Method,
        states: States,
        groups: Sequence[str],
        tuned: States | None,
        advance: Advance,
    ) -> None:
        self._options, self._method = options, method
        self.layers, self.norms_L = layers, states.norms_L
        names = np.array(groups, np.str_)
        half = len(names)
        if tuned is not None:
            _check_same(tuned, states)
            positive_LNF, negative_LNF = tuned.states_LNF, states.states_LNF
            names = np.tile(names, 2)
        else:
            positive_LNF, negative_LNF = states.states_LNF[:, :half], states.states_LNF[:, half:]
        self._samples: list[Sample] = []
        self._fitted: list[Fitted] = []
        for index in range(len(layers)):
            self._samples.append(Sample(positive_LNF[index], negative_LNF[index], names))
            self._fitted.append(method(self._samples[-1]))
            advance(1)

    @property
    def fitted_LD(self) -> Floats:
        """The directions, in the order of `layers`."""
        return np.array([each.direction_D for each in self._fitted])

    def told(self, layers: Sequence[int]) -> tuple[LayerFit, ...]:
        """Report on the directions of some layers, refits among it."""
        found = []
        for layer in layers:
            index = self.layers.index(layer)
            fitted, sample = self._fitted[index], self._samples[index]
            cosines = bootstrap_cosines(
                self._method, sample, self._options.resamples, self._generator(layer, "refits")
            )
            low, high = np.quantile(cosines, [0.025, 0.975])
            mean = float(cosines.mean())
            found.append(
                LayerFit(
                    layer=layer,
                    length=float(np.linalg.norm(fitted.direction_D)),
                    residual_norm=float(self.norms_L[index]),
                    bootstrap_cosine=Interval(
                        estimate=mean, low=min(float(low), mean), high=max(float(high), mean)
                    ),
                    facts=dict(fitted.facts),
                )
            )
        return tuple(found)

    def with_controls(self, layers: Sequence[int]) -> dict[str, Floats]:
        """Return the directions [L, D] of some layers and their controls, by the name to load."""
        by_name: dict[str, list[Floats]] = {}
        for layer in layers:
            index = self.layers.index(layer)
            fitted_D = self._fitted[index].direction_D
            length, generator = float(np.linalg.norm(fitted_D)), self._generator(layer, "controls")
            by_name.setdefault("fitted-0", []).append(fitted_D)
            for draw in range(self._options.controls):
                by_name.setdefault(f"random-{draw}", []).append(
                    random_direction(length, len(fitted_D), generator)
                )
                by_name.setdefault(f"shuffled-{draw}", []).append(
                    shuffled_direction(self._method, self._samples[index], length, generator)
                )
        return {name: np.array(each) for name, each in by_name.items()}

    def _generator(self, layer: int, which: str) -> np.random.Generator:
        """Return a generator of the same draws at a layer whichever other layers are looked at."""
        own = [1] if which == "refits" else []
        return np.random.default_rng([self._options.seed, layer, *own])


def separations(directions: Directions, states: States) -> dict[int, float]:
    """Measure how well each layer's direction tells the sides of other pairs, positives first."""
    half = states.states_LNF.shape[1] // 2
    return {
        layer: separation(direction_D, states_NF[:half], states_NF[half:])
        for layer, direction_D, states_NF in zip(
            directions.layers, directions.fitted_LD, states.states_LNF, strict=True
        )
    }


def collected(
    options: FitOptions,
    engine: FitEngine,
    part: Part,
    layers: Sequence[int],
    reduce: Reduce,
    advance: Advance,
) -> States:
    """Collect the states of both sides of a part's pairs, positives first."""
    lines = (*part.positives, *part.negatives)
    return engine.states(lines, layers, options.site, reduce, advance)


def method_of(
    options: FitOptions, engine: FitEngine, sae: Sae | None, tell: Tell
) -> tuple[Method, Reduce]:
    """Return the options' method, and what makes a state of a text's stream for it."""
    reduce = REDUCE[options.token]
    if sae is None:
        return METHODS.get(options.method, mean_difference), reduce
    return _selection(options, engine, sae, tell), _by_codes(sae, reduce)


def _by_codes(sae: Sae, reduce: Reduce) -> Reduce:
    return lambda rows_TD: reduce(encode(sae, rows_TD))


def _selection(options: FitOptions, engine: FitEngine, sae: Sae, tell: Tell) -> Method:
    lines = engine.random_lines(RANDOM_LINES, RANDOM_LENGTH, options.seed)

    def rate(rows_TD: Floats) -> Floats:
        rate_M: Floats = (encode(sae, rows_TD) != 0).mean(axis=0)
        return rate_M

    rates = engine.states(lines, [sae.tap.layer], options.site, rate, tell(len(lines)))
    return FeatureSelection(sae, rates.states_LNF[0].mean(axis=0), options.features)


def _check_same(tuned: States, states: States) -> None:
    if tuned.states_LNF.shape != states.states_LNF.shape:
        raise ConfigError(
            f"{argument('tuned')}: has states of shape {tuned.states_LNF.shape[::2]} (layers, "
            f"width), want {states.states_LNF.shape[::2]} as {argument('model')} has: give a "
            "fine-tuned form of that model"
        )
