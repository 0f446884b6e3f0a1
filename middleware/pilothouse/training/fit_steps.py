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
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.vector import Vector, build_vector, save_vector
from pilothouse.engine.vllm.version import vllm_version
from pilothouse.progress import Phase
from pilothouse.training.controls import chosen_controls
from pilothouse.training.directions import REDUCE, Directions, collected, method_of, separations
from pilothouse.training.fit_engine import FitEngine, States
from pilothouse.training.fit_options import Files, FitOptions, Material, divided, material
from pilothouse.training.methods import Floats
from pilothouse.training.report import Cell, FitReport, LayerFit, Parts, Search, Trial
from pilothouse.training.selection import choose, findings, notes
from pilothouse.training.staged_search import found_by_search
from pilothouse.training.stages import (
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
from pilothouse.training.sweep import PartMeter, Steering, fitted, trial, with_controls
from pilothouse.training.tokenized import Texts

CREATED_BY = "pilothouse vector fit"


class Chosen(NamedTuple):
    """What was looked at, what was chosen of it, and what is tested in the end."""

    cells: tuple[Cell, ...]
    search: Search
    best: Cell
    layers: tuple[LayerFit, ...]
    tested: list[Steering]


def run_fit(
    options: FitOptions, files: Files, texts: Texts, sae: Sae | None, phase: Phase, began: Clock
) -> tuple[Vector, FitReport]:
    """Fit, search, choose and test; return the vector of the chosen layer and the whole report.

    Args:
        options: what is asked for.
        files: the texts as they were read.
        texts: the same as the model's tokens.
        sae: the SAE whose features fit, if any.
        phase: called with each stage's title and size.
        began: when the verb was called.

    Raises:
        ConfigError: options that the model or the files do not go with.
    """
    stages = Stages(phase, _stages(options), began)
    tuned = _tuned_states(options, files, texts, stages) if options.tuned is not None else None
    with _running(options, options.model, stages, ENGINE) as engine, _room() as room:
        with stages.stage(ANSWERS, engine) as tell:
            parts = material(options, files, texts, engine, tell)
        directions, apart = _directions(options, engine, parts, sae, tuned, stages)
        if options.search == "staged":
            found = _searched(options, engine, parts, directions, apart, room, stages)
        else:
            found = _swept(options, engine, parts, directions, room, stages)
        with stages.stage(TEST, engine) as tell:
            meter = PartMeter(options, engine, parts.test, tell(None))
            measured = meter.cells(found.tested, tell(len(found.tested) * meter.texts))
        test = trial(options, measured, parts.test.groups)
        dtype = engine.dtype
    report = _report(options, parts, found, test, stages, dtype)
    index = directions.layers.index(found.best.layer)
    vector = build_vector(
        options.name,
        model_id=options.model_id,
        layers=(found.best.layer,),
        directions_LD=directions.fitted_LD[[index]].astype(np.float32),
        residual_norms_L=directions.norms_L[[index]].astype(np.float32),
        created_by=f"{CREATED_BY} ({options.method}, {options.pairs.name})"[:512],
        site=options.site,
        d_model=engine.d_model,
    )
    return vector, report


def _stages(options: FitOptions) -> tuple[str, ...]:
    looks = (SCREEN, SEARCH, CONTROLS) if options.search == "staged" else (SWEEP,)
    tuned = TUNED if options.tuned is not None else ()
    return (*tuned, ENGINE, ANSWERS, STATES, DIRECTIONS, *looks, TEST)


@contextmanager
def _running(options: FitOptions, model: str, stages: Stages, name: str) -> Iterator[FitEngine]:
    with stages.stage(name) as tell:
        tell(None)
        engine = FitEngine(model, options.model_id, options.settings, options.site, options.layers)
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def _room() -> Iterator[Path]:
    with TemporaryDirectory(prefix="pilothouse-fit-") as place:
        yield Path(place)


def _tuned_states(options: FitOptions, files: Files, texts: Texts, stages: Stages) -> States:
    assert options.tuned is not None
    starting, reading = TUNED
    with _running(options, options.tuned, stages, starting) as engine:
        part, *_ = divided(options, files, texts)
        with stages.stage(reading, engine) as tell:
            advance = tell(2 * len(part.positives))
            return collected(options, engine, part, engine.layers, REDUCE[options.token], advance)


def _directions(
    options: FitOptions,
    engine: FitEngine,
    texts: Material,
    sae: Sae | None,
    tuned: States | None,
    stages: Stages,
) -> tuple[Directions, Mapping[int, float]]:
    """Return the directions, and how well each tells the sides of the pairs that choose."""
    # An SAE's states are codes and a tuned model's are not of two sides: neither lies apart.
    shows = options.search == "staged" and sae is None and tuned is None
    with stages.stage(STATES, engine) as tell:
        method, reduce = method_of(options, engine, sae, tell)
        others = texts.choose.positives if shows else ()
        advance = tell(2 * (len(texts.fit.positives) + len(others)))
        states = collected(options, engine, texts.fit, engine.layers, reduce, advance)
        apart = (
            collected(options, engine, texts.choose, engine.layers, reduce, advance)
            if shows
            else None
        )
    with stages.stage(DIRECTIONS) as tell:
        advance = tell(len(engine.layers))
        directions = Directions(
            options, engine.layers, method, states, texts.fit.groups, tuned, advance
        )
    return directions, separations(directions, apart) if apart is not None else {}


def _searched(
    options: FitOptions,
    engine: FitEngine,
    texts: Material,
    directions: Directions,
    apart: Mapping[int, float],
    room: Path,
    stages: Stages,
) -> Chosen:
    """Screen all layers, search the best few, and give the controls a choice of these."""
    whole = {"fitted-0": directions.fitted_LD}
    _load(options, engine, directions, directions.layers, whole, room / "screened")
    cells, layers, search = found_by_search(options, engine, texts.choose, apart, stages)
    best = choose(cells, options.max_perplexity_ratio)
    ordered = tuple(sorted(layers))
    _load(
        options, engine, directions, ordered, directions.with_controls(ordered), room / "searched"
    )
    controls = chosen_controls(options, engine, texts.choose, ordered, best.scale, stages)
    return Chosen(
        cells=cells,
        search=search.model_copy(update={"controls": controls.choices}),
        best=best,
        layers=directions.told(ordered),
        tested=[*fitted([(best.layer, best.scale)]), *controls.steerings],
    )


def _swept(
    options: FitOptions,
    engine: FitEngine,
    texts: Material,
    directions: Directions,
    room: Path,
    stages: Stages,
) -> Chosen:
    """Measure every layer at every strength, controls too."""
    layers = directions.layers
    _load(options, engine, directions, layers, directions.with_controls(layers), room / "swept")
    steerings = with_controls(options, layers)
    with stages.stage(SWEEP, engine) as tell:
        meter = PartMeter(options, engine, texts.choose, tell(None))
        advance = tell(len(steerings) * meter.texts)
        cells = tuple(each.cell for each in meter.cells(steerings, advance).values())
    best = choose(cells, options.max_perplexity_ratio)
    tested = [each for each in with_controls(options, [best.layer]) if each.scale == best.scale]
    return Chosen(cells, Search(kind="full"), best, directions.told(layers), tested)


def _load(
    options: FitOptions,
    engine: FitEngine,
    directions: Directions,
    layers: tuple[int, ...],
    by_name: Mapping[str, Floats],
    place: Path,
) -> None:
    norms_L = directions.norms_L[[directions.layers.index(each) for each in layers]]
    for name, directions_LD in by_name.items():
        vector = build_vector(
            name,
            model_id=options.model_id,
            layers=layers,
            directions_LD=directions_LD.astype(np.float32),
            residual_norms_L=norms_L.astype(np.float32),
            created_by=CREATED_BY,
            site=options.site,
            d_model=engine.d_model,
        )
        save_vector(vector, place / name)
    engine.load({name: place / name for name in by_name})


def _report(
    options: FitOptions,
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
            (name, len(part.positives)),
            (f"{name}_groups", len(set(part.groups))),
        )
    }
    best = found.best
    chosen = next(each for each in found.layers if each.layer == best.layer)
    return FitReport(
        name=options.name,
        model_id=options.model_id,
        method=options.method,
        site=options.site,
        on=options.on,
        token=options.token,
        seed=options.seed,
        data_sha256=texts.sha256,
        versions={
            "pilothouse": __version__,
            "vllm": vllm_version(),
            **{name: version(name) for name in ("torch", "transformers", "numpy")},
        },
        parts=Parts(**sizes),
        neutral=texts.neutral,
        max_perplexity_ratio=options.max_perplexity_ratio,
        layers=found.layers,
        sweep=found.cells,
        search=found.search,
        chosen_layer=best.layer,
        chosen_scale=best.scale,
        test=test,
        findings=findings(test, options.max_perplexity_ratio),
        notes=(*texts.notes, *notes(chosen, sizes["test_groups"], _edges(options, found))),
        chat_template_kwargs=options.chat_template_kwargs,
        dtype=dtype,
        stages=tuple(stages.done),
    )


def _edges(options: FitOptions, found: Chosen) -> Sequence[str]:
    if found.best.scale < max(options.scales) or len(options.scales) == 1:
        return ()
    return (f"the strongest strength tried, {found.best.scale:g}, was chosen: try stronger ones",)
