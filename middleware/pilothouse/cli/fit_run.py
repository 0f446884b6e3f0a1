"""The steps of a fit: states, directions and controls, sweep, choice, test.

Shape suffixes: L layers, N pairs, F numbers of a state, D width of the site.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pilothouse import __version__
from pilothouse.cli.fit_directions import REDUCE, Directions, collected, directions_of
from pilothouse.cli.fit_order import Files, FitOrder, Material, divided, material
from pilothouse.cli.fit_stand import Stand, States
from pilothouse.cli.fit_sweep import measured, steerings, trial
from pilothouse.cli.fit_texts import Texts
from pilothouse.contrast.report import (
    Cell,
    FitReport,
    Parts,
    Trial,
)
from pilothouse.contrast.verdict import choose, findings, notes
from pilothouse.engine.compat import vllm_version
from pilothouse.model.sae.autoencoder import Sae
from pilothouse.model.vector import Vector, build_vector, save_vector
from pilothouse.progress import Phase

CREATED_BY = "pilothouse vector fit"


def run_fit(
    order: FitOrder, files: Files, texts: Texts, sae: Sae | None, phase: Phase
) -> tuple[Vector, FitReport]:
    """Fit, measure, choose and test; the vector of the chosen layer and the whole report.

    Raises:
        ConfigError: an order that the model or the files do not go with.
    """
    tuned = _tuned_states(order, files, texts, phase) if order.tuned is not None else None
    with _standing(order, order.model, order.layers, phase) as stand:
        layers = stand.layers
        phase("asking the model for its own answers", None)
        parts = material(order, files, texts, stand)
        directions = directions_of(order, stand, parts, layers, sae, tuned, phase)
        with TemporaryDirectory(prefix="pilothouse-fit-") as place:
            phase("loading the directions", None)
            _load(order, stand, directions, layers, Path(place))
            cells, _ = measured(
                order, stand, parts.choose, steerings(order, layers), phase, "sweep"
            )
            best = choose(cells, order.max_perplexity_ratio)
            last = [each for each in steerings(order, [best.layer]) if each.scale == best.scale]
            test = trial(order, *measured(order, stand, parts.test, last, phase, "test"), parts)
    report = _report(order, parts, directions, cells, best, test)
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
def _standing(
    order: FitOrder, model: str, layers: Sequence[int] | None, phase: Phase
) -> Iterator[Stand]:
    phase(f"starting an engine with {model}", None)
    stand = Stand(model, order.model_id, order.settings, order.site, layers)
    try:
        yield stand
    finally:
        stand.close()


def _tuned_states(order: FitOrder, files: Files, texts: Texts, phase: Phase) -> States:
    assert order.tuned is not None
    with _standing(order, order.tuned, order.layers, phase) as stand:
        part, *_ = divided(order, files, texts)
        return collected(order, stand, part, stand.layers, REDUCE[order.token], phase)


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
        notes=(*texts.notes, *notes(chosen, sizes["test_groups"], edges)),
        chat_template_kwargs=order.chat_template_kwargs,
    )  # fmt: skip
