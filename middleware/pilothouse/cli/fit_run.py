"""The steps of a fit: states, directions and controls, sweep, choice, test.

Shape suffixes: L layers, N pairs, F numbers of a state, D width of the site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse import __version__
from pilothouse.cli.fit_order import Asking, Files, FitOrder, Material, Part, material
from pilothouse.cli.fit_stand import Advance, Reduce, Stand, States, forced
from pilothouse.contrast.control import bootstrap_cosines, random_direction, shuffled_direction
from pilothouse.contrast.difference import mean_difference
from pilothouse.contrast.features import FeatureSelection
from pilothouse.contrast.line import Said
from pilothouse.contrast.measure import Heard, effects, figures, mean_interval
from pilothouse.contrast.method import METHODS, Method
from pilothouse.contrast.report import (
    CONTROLS,
    Cell,
    Control,
    FitReport,
    Kind,
    LayerFit,
    Parts,
    Trial,
)
from pilothouse.contrast.sample import Floats, Sample
from pilothouse.contrast.verdict import choose, findings, notes
from pilothouse.edit.sae_codes import encode
from pilothouse.engine.compat import vllm_version
from pilothouse.errors import ConfigError
from pilothouse.model.manifest import Interval
from pilothouse.model.sae.autoencoder import Sae
from pilothouse.model.vector import Vector, build_vector, save_vector
from pilothouse.term import SteerTerm

RANDOM_LINES, RANDOM_LENGTH = 32, 32
CREATED_BY = "pilothouse vector fit"
REDUCE: Mapping[str, Reduce] = {
    "mean": lambda rows_TF: rows_TF.mean(axis=0),
    "last": lambda rows_TF: rows_TF[-1],
    "first": lambda rows_TF: rows_TF[0],
}

Phase = Callable[[str, int], Advance]
"""Begin a stretch of work of so many steps; the answer is called with steps done."""


class Steering(NamedTuple):
    """A loaded vector at a layer and strength."""

    kind: Kind
    draw: int
    layer: int
    scale: float

    @property
    def vector(self) -> str:
        """The name it is loaded under."""
        return f"{self.kind}-{self.draw}"


class Directions(NamedTuple):
    """Of each layer the fitted direction and its controls, by the name they are loaded under."""

    by_name: dict[str, Floats]
    norms_L: Floats
    layers: tuple[LayerFit, ...]


def run_fit(
    order: FitOrder, files: Files, sae: Sae | None, phase: Phase
) -> tuple[Vector, FitReport]:
    """Fit, measure, choose and test; the vector of the chosen layer and the whole report.

    Raises:
        ConfigError: an order that the model or the files do not go with.
    """
    tuned = _tuned_states(order, files, phase) if order.tuned is not None else None
    with _standing(order, order.model, order.layers) as stand:
        layers = stand.layers
        texts = material(order, files, stand)
        directions = _directions(order, stand, texts, layers, sae, tuned, phase)
        with TemporaryDirectory(prefix="pilothouse-fit-") as place:
            _load(order, stand, directions, layers, Path(place))
            cells, _ = _measured(order, stand, texts.choose, _all(order, layers), phase, "sweep")
            best = choose(cells, order.max_perplexity_ratio)
            last = [each for each in _all(order, [best.layer]) if each.scale == best.scale]
            test = _test(order, *_measured(order, stand, texts.test, last, phase, "test"), texts)
    report = _report(order, texts, directions, cells, best, test)
    index = layers.index(best.layer)
    vector = build_vector(
        order.name,
        model_id=order.model_id,
        layers=(best.layer,),
        directions_LD=directions.by_name["fitted-0"][[index]].astype(np.float32),
        residual_norms_L=directions.norms_L[[index]].astype(np.float32),
        created_by=f"{CREATED_BY} ({order.method}, {order.pairs.name})"[:512],
        site=order.site,
        d_model=stand.d_model,
    )
    return vector, report


@contextmanager
def _standing(order: FitOrder, model: str, layers: Sequence[int] | None) -> Iterator[Stand]:
    stand = Stand(model, order.model_id, order.settings, order.site, layers)
    try:
        yield stand
    finally:
        stand.close()


def _states(
    order: FitOrder, stand: Stand, part: Part, layers: Sequence[int], reduce: Reduce, phase: Phase
) -> States:
    lines = (*part.positives, *part.negatives)
    return stand.states(lines, layers, order.site, reduce, phase("states", len(lines)))


def _tuned_states(order: FitOrder, files: Files, phase: Phase) -> tuple[States, Part]:
    assert order.tuned is not None
    with _standing(order, order.tuned, order.layers) as stand:
        part = material(order, files, stand).fit
        reduce = REDUCE[order.token]
        return _states(order, stand, part, stand.layers, reduce, phase), part


def _directions(
    order: FitOrder,
    stand: Stand,
    texts: Material,
    layers: tuple[int, ...],
    sae: Sae | None,
    tuned: tuple[States, Part] | None,
    phase: Phase,
) -> Directions:
    # Of a tuned model the states take the place of the positives.
    reduce, method = REDUCE[order.token], METHODS.get(order.method, mean_difference)
    if sae is not None:
        reduce, method = _by_codes(sae, reduce), _selection(order, stand, sae, phase)
    states = _states(order, stand, texts.fit, layers, reduce, phase)
    groups = np.array(texts.fit.groups, np.str_)
    half = len(groups)
    if tuned is not None:
        _check_same(tuned, states, texts.fit)
        positive_LNF, negative_LNF = tuned[0].states_LNF, states.states_LNF
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


def _check_same(tuned: tuple[States, Part], states: States, part: Part) -> None:
    if tuned[0].states_LNF.shape != states.states_LNF.shape:
        raise ConfigError(
            f"--tuned: has states of shape {tuned[0].states_LNF.shape[::2]} (layers, width), want "
            f"{states.states_LNF.shape[::2]} as --model has: give a fine-tuned form of that model"
        )
    if tuned[1] != part:
        raise ConfigError("--tuned: makes other tokens of the pairs: its tokenizer is another")


def _load(
    order: FitOrder, stand: Stand, directions: Directions, layers: tuple[int, ...], place: Path
) -> None:
    for name, directions_LD in directions.by_name.items():
        vector = build_vector(
            name, model_id=order.model_id, layers=layers,
            directions_LD=directions_LD.astype(np.float32),
            residual_norms_L=directions.norms_L.astype(np.float32), created_by=CREATED_BY,
            site=order.site, d_model=stand.d_model,
        )  # fmt: skip
        save_vector(vector, place / name)
    stand.load({name: place / name for name in directions.by_name})


def _all(order: FitOrder, layers: Sequence[int]) -> list[Steering]:
    kinds: list[tuple[Kind, int]] = [("fitted", 0)]
    kinds += [(kind, draw) for kind, draw in product(CONTROLS, range(order.controls))]
    return [
        Steering(kind, draw, layer, scale)
        for layer, (kind, draw), scale in product(layers, kinds, order.scales)
    ]


def _measured(
    order: FitOrder,
    stand: Stand,
    part: Part,
    steerings: Sequence[Steering],
    phase: Phase,
    name: str,
) -> tuple[list[Cell], dict[Steering, Floats]]:
    """A cell for each steering, and its effect on each pair. A layer's go to the engine at once."""
    [plain] = _heard(order, stand, part, [None])
    if part.questions and not plain.right_Q.any():
        raise ConfigError(
            f"--facts: the unsteered model answers none of {len(part.questions)} questions right, "
            "so that nothing can be retained; ask what it knows"
        )
    advance = phase(name, len(steerings))
    cells: list[Cell] = []
    by_pair: dict[Steering, Floats] = {}
    for layer in dict.fromkeys(each.layer for each in steerings):
        batch = [each for each in steerings if each.layer == layer]
        for each, heard in zip(batch, _heard(order, stand, part, batch), strict=True):
            by_pair[each] = effects(plain, heard)
            cells.append(
                Cell(kind=each.kind, draw=each.draw, layer=each.layer, scale=each.scale,
                     figures=figures(plain, heard))
            )  # fmt: skip
        advance(len(batch))
    return cells, by_pair


def _heard(
    order: FitOrder, stand: Stand, part: Part, steerings: Sequence[Steering | None]
) -> list[Heard]:
    lines = (*part.positives, *part.negatives, *part.neutral)
    terms = [
        each and forced(each.vector, each.layer, each.scale, order.on, line)
        for each in steerings
        for line in lines
    ]
    said = stand.say(lines * len(steerings), terms)
    rights = _right(order, stand, part.questions, steerings)
    pairs = len(part.positives)
    found = []
    for index, right_Q in enumerate(rights):
        mine: list[Said] = said[index * len(lines) : (index + 1) * len(lines)]
        found.append(Heard(mine[:pairs], mine[pairs : 2 * pairs], mine[2 * pairs :], right_Q))
    return found


def _right(
    order: FitOrder,
    stand: Stand,
    questions: Sequence[Asking],
    steerings: Sequence[Steering | None],
) -> list[NDArray[np.bool_]]:
    if not questions:
        return [np.zeros(0, np.bool_)] * len(steerings)
    terms = [
        each
        and SteerTerm(
            vector=each.vector, layers=(each.layer,), scale=each.scale, unit="residual", on=order.on
        )
        for each in steerings
        for _ in questions
    ]
    answers = stand.answers(
        [each.ids for each in questions] * len(steerings), terms, order.answer_tokens
    )
    right = [
        question.answer.casefold() in stand.text(answer).casefold()
        for question, answer in zip(list(questions) * len(steerings), answers, strict=True)
    ]
    return [
        np.array(right[first : first + len(questions)])
        for first in range(0, len(right), len(questions))
    ]


def _test(
    order: FitOrder, cells: list[Cell], by_pair: dict[Steering, Floats], texts: Material
) -> Trial:
    groups, seed = texts.test.groups, order.seed
    fitted_N = next(found for each, found in by_pair.items() if each.kind == "fitted")
    over: dict[Control, Interval] = {}
    for control in CONTROLS:
        draws = [found for each, found in by_pair.items() if each.kind == control]
        over[control] = mean_interval(fitted_N - np.mean(draws, axis=0), groups, seed)
    return Trial(cells=tuple(cells), effect=mean_interval(fitted_N, groups, seed), effect_over=over)


def _report(
    order: FitOrder,
    texts: Material,
    directions: Directions,
    cells: Sequence[Cell],
    best: Cell,
    test: Trial,
) -> FitReport:
    sizes = {
        key: count
        for name in ("fit", "choose", "test")
        for part in (getattr(texts, name),)
        for key, count in (
            (name, len(part.positives)), (f"{name}_groups", len(set(part.groups))),
        )
    }  # fmt: skip
    chosen = next(each for each in directions.layers if each.layer == best.layer)
    edges = []
    if best.scale == max(order.scales) and len(order.scales) > 1:
        edges.append(f"the strongest strength tried, {best.scale:g}, was chosen: try stronger ones")
    return FitReport(
        name=order.name, model_id=order.model_id, method=order.method, site=order.site,
        on=order.on, token=order.token, seed=order.seed, data_sha256=texts.sha256,
        versions={
            "pilothouse": __version__,
            "vllm": vllm_version(),
            **{name: version(name) for name in ("torch", "transformers", "numpy")},
        },
        parts=Parts(**sizes), neutral=texts.neutral,
        max_perplexity_ratio=order.max_perplexity_ratio,
        layers=directions.layers, sweep=tuple(cells), chosen_layer=best.layer,
        chosen_scale=best.scale, test=test,
        findings=findings(test, order.max_perplexity_ratio),
        notes=notes(chosen, sizes["test_groups"], edges),
    )  # fmt: skip
