"""The steps of a fit: states, directions, the search for layer and strength, controls, test.

Shape suffixes: L layers, N pairs, F numbers of a state, D width of the site.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from pilothouse import __version__
from pilothouse.cli.fit_controls import chosen_controls
from pilothouse.cli.fit_directions import REDUCE, Directions, collected, method_of, separations
from pilothouse.cli.fit_order import Files, FitOrder, Material, divided, material
from pilothouse.cli.fit_search import found_by_search
from pilothouse.cli.fit_stages import (
    ANSWERS,
    CONTROLS,
    DIRECTIONS,
    ENGINE,
    SCREEN,
    SEARCH,
    STATES,
    SWEEP,
    TEST,
    TUNED,
    Clock,
    Stages,
)
from pilothouse.cli.fit_stand import Stand, States
from pilothouse.cli.fit_sweep import PartMeter, Steering, fitted, trial, with_controls
from pilothouse.cli.fit_texts import Texts
from pilothouse.contrast.report import Cell, FitReport, LayerFit, Parts, Search, Trial
from pilothouse.contrast.sample import Floats
from pilothouse.contrast.verdict import choose, findings, notes
from pilothouse.engine.vllm.version import vllm_version
from pilothouse.model.sae.autoencoder import Sae
from pilothouse.model.vector import Vector, build_vector, save_vector
from pilothouse.progress import Phase

CREATED_BY = "pilothouse vector fit"


class Chosen(NamedTuple):
    """What was looked at, what was chosen of it, and what is tested in the end."""

    cells: tuple[Cell, ...]
    search: Search
    best: Cell
    layers: tuple[LayerFit, ...]
    tested: list[Steering]


def run_fit(
    order: FitOrder, files: Files, texts: Texts, sae: Sae | None, phase: Phase, began: Clock
) -> tuple[Vector, FitReport]:
    """Fit, search, choose and test; the vector of the chosen layer and the whole report.

    Args:
        began: when the verb was called.

    Raises:
        ConfigError: an order that the model or the files do not go with.
    """
    stages = Stages(phase, _stages(order), began)
    tuned = _tuned_states(order, files, texts, stages) if order.tuned is not None else None
    with _standing(order, order.model, stages, ENGINE) as stand, _room() as room:
        with stages.stage(ANSWERS, stand) as tell:
            parts = material(order, files, texts, stand, tell)
        directions, apart = _directions(order, stand, parts, sae, tuned, stages)
        find = _searched if order.search == "staged" else _swept
        found = find(order, stand, parts, directions, apart, room, stages)
        with stages.stage(TEST, stand) as tell:
            meter = PartMeter(order, stand, parts.test, tell(None))
            measured = meter.cells(found.tested, tell(len(found.tested) * meter.texts))
        test = trial(order, measured, parts.test.groups)
        dtype = stand.dtype
    report = _report(order, parts, found, test, stages, dtype)
    index = directions.layers.index(found.best.layer)
    vector = build_vector(
        order.name,
        model_id=order.model_id,
        layers=(found.best.layer,),
        directions_LD=directions.fitted_LD[[index]].astype(np.float32),
        residual_norms_L=directions.norms_L[[index]].astype(np.float32),
        created_by=f"{CREATED_BY} ({order.method}, {order.pairs.name})"[:512],
        site=order.site,
        d_model=stand.d_model,
    )
    return vector, report


def _stages(order: FitOrder) -> tuple[str, ...]:
    looks = (SCREEN, SEARCH, CONTROLS) if order.search == "staged" else (SWEEP,)
    tuned = TUNED if order.tuned is not None else ()
    return (*tuned, ENGINE, ANSWERS, STATES, DIRECTIONS, *looks, TEST)


@contextmanager
def _standing(order: FitOrder, model: str, stages: Stages, name: str) -> Iterator[Stand]:
    with stages.stage(name) as tell:
        tell(None)
        stand = Stand(model, order.model_id, order.settings, order.site, order.layers)
    try:
        yield stand
    finally:
        stand.close()


@contextmanager
def _room() -> Iterator[Path]:
    with TemporaryDirectory(prefix="pilothouse-fit-") as place:
        yield Path(place)


def _tuned_states(order: FitOrder, files: Files, texts: Texts, stages: Stages) -> States:
    assert order.tuned is not None
    engine, states = TUNED
    with _standing(order, order.tuned, stages, engine) as stand:
        part, *_ = divided(order, files, texts)
        with stages.stage(states, stand) as tell:
            advance = tell(2 * len(part.positives))
            return collected(order, stand, part, stand.layers, REDUCE[order.token], advance)


def _directions(
    order: FitOrder,
    stand: Stand,
    texts: Material,
    sae: Sae | None,
    tuned: States | None,
    stages: Stages,
) -> tuple[Directions, Mapping[int, float]]:
    """The directions, and how well each tells the sides of the pairs that choose."""
    # An SAE's states are codes and a tuned model's are not of two sides: neither lies apart.
    shows = order.search == "staged" and sae is None and tuned is None
    with stages.stage(STATES, stand) as tell:
        method, reduce = method_of(order, stand, sae, tell)
        others = texts.choose.positives if shows else ()
        advance = tell(2 * (len(texts.fit.positives) + len(others)))
        states = collected(order, stand, texts.fit, stand.layers, reduce, advance)
        apart = (
            collected(order, stand, texts.choose, stand.layers, reduce, advance) if shows else None
        )
    with stages.stage(DIRECTIONS) as tell:
        advance = tell(len(stand.layers))
        directions = Directions(
            order, stand.layers, method, states, texts.fit.groups, tuned, advance
        )
    return directions, separations(directions, apart) if apart is not None else {}


def _searched(
    order: FitOrder,
    stand: Stand,
    texts: Material,
    directions: Directions,
    apart: Mapping[int, float],
    room: Path,
    stages: Stages,
) -> Chosen:
    """Screen all layers, search the best few, and give the controls a choice of these."""
    whole = {"fitted-0": directions.fitted_LD}
    _load(order, stand, directions, directions.layers, whole, room / "screened")
    cells, layers, search = found_by_search(order, stand, texts.choose, apart, stages)
    best = choose(cells, order.max_perplexity_ratio)
    ordered = tuple(sorted(layers))
    _load(order, stand, directions, ordered, directions.with_controls(ordered), room / "searched")
    controls = chosen_controls(order, stand, texts.choose, ordered, best.scale, stages)
    return Chosen(
        cells=cells,
        search=search.model_copy(update={"controls": controls.choices}),
        best=best,
        layers=directions.told(ordered),
        tested=[*fitted([(best.layer, best.scale)]), *controls.steerings],
    )


def _swept(
    order: FitOrder,
    stand: Stand,
    texts: Material,
    directions: Directions,
    apart: Mapping[int, float],
    room: Path,
    stages: Stages,
) -> Chosen:
    """Measure every layer at every strength, controls too."""
    del apart
    layers = directions.layers
    _load(order, stand, directions, layers, directions.with_controls(layers), room / "swept")
    steerings = with_controls(order, layers)
    with stages.stage(SWEEP, stand) as tell:
        meter = PartMeter(order, stand, texts.choose, tell(None))
        advance = tell(len(steerings) * meter.texts)
        cells = tuple(each.cell for each in meter.cells(steerings, advance).values())
    best = choose(cells, order.max_perplexity_ratio)
    tested = [each for each in with_controls(order, [best.layer]) if each.scale == best.scale]
    return Chosen(cells, Search(kind="full"), best, directions.told(layers), tested)


def _load(
    order: FitOrder,
    stand: Stand,
    directions: Directions,
    layers: tuple[int, ...],
    by_name: Mapping[str, Floats],
    place: Path,
) -> None:
    norms_L = directions.norms_L[[directions.layers.index(each) for each in layers]]
    for name, directions_LD in by_name.items():
        vector = build_vector(
            name, model_id=order.model_id, layers=layers,
            directions_LD=directions_LD.astype(np.float32),
            residual_norms_L=norms_L.astype(np.float32), created_by=CREATED_BY,
            site=order.site, d_model=stand.d_model,
        )  # fmt: skip
        save_vector(vector, place / name)
    stand.load({name: place / name for name in by_name})


def _report(
    order: FitOrder,
    texts: Material,
    found: Chosen,
    test: Trial,
    stages: Stages,
    dtype: str,
) -> FitReport:
    sizes = {
        key: count
        for name in ("fit", "choose", "test")
        for part in (getattr(texts, name),)
        for key, count in (
            (name, len(part.positives)), (f"{name}_groups", len(set(part.groups))),
        )
    }  # fmt: skip
    best = found.best
    chosen = next(each for each in found.layers if each.layer == best.layer)
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
        layers=found.layers, sweep=found.cells, search=found.search, chosen_layer=best.layer,
        chosen_scale=best.scale, test=test,
        findings=findings(test, order.max_perplexity_ratio),
        notes=(*texts.notes, *notes(chosen, sizes["test_groups"], _edges(order, found))),
        chat_template_kwargs=order.chat_template_kwargs, dtype=dtype,
        stages=tuple(stages.done),
    )  # fmt: skip


def _edges(order: FitOrder, found: Chosen) -> Sequence[str]:
    if found.best.scale < max(order.scales) or len(order.scales) == 1:
        return ()
    return (f"the strongest strength tried, {found.best.scale:g}, was chosen: try stronger ones",)
