"""The search for layer and strength: a screen of all layers, then finer steps at the best few.

Every round's candidates go to the engine together, each as a program of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from pilothouse.training.fit_engine import FitEngine
from pilothouse.training.fit_options import FitOptions, Part
from pilothouse.training.report import Cell, Figures, LayerSearch, Search
from pilothouse.training.scored_text import ScoredText
from pilothouse.training.selection import (
    best_strength,
    first_strength,
    fluency_limit,
    furthest,
    next_strength,
    reach,
    standing,
)
from pilothouse.training.stages import SCREEN, SEARCH, Stages
from pilothouse.training.sweep import PartMeter, fitted

SCREEN_TOKENS, SEARCH_TOKENS = 9_000, 16_000
"""Whole stages may compute about as much. Pairs are left out first, then layers."""
SEARCHED = 4
"""Layers that the screen leaves over."""
IN_THE_RACE = (SEARCHED, SEARCHED, SEARCHED, 2, 2, 1)
"""Layers that take part in each round of the search."""
LEAST_PAIRS, LEAST_LAYERS = 3, 8
T = TypeVar("T")


class Found(NamedTuple):
    """What was searched, cell by cell, and how."""

    cells: tuple[Cell, ...]
    layers: tuple[int, ...]
    """Those that were searched, from the furthest reach on."""
    search: Search


@dataclass
class _Race:
    """A layer in the search, with the strength to try next."""

    tried: dict[float, Figures]
    next: float | None


def found_by_search(
    options: FitOptions,
    engine: FitEngine,
    part: Part,
    separations: Mapping[int, float],
    stages: Stages,
) -> Found:
    """Look for layer and strength on a part of the texts.

    Args:
        options: those of the fit.
        engine: the engine that has the vector loaded.
        part: the texts that choose.
        separations: the d' of each layer on that part; empty where they say nothing.
        stages: told of the work.
    """
    layers = engine.layers
    scales = sorted(options.scales)
    screen_scale = scales[(len(scales) - 1) // 2]
    few = smaller(part, SCREEN_TOKENS // len(layers), engine, options.on)
    cost = fed_tokens(few, engine, options.on)
    most = max(LEAST_LAYERS, SCREEN_TOKENS // max(1, cost))
    screened = layers if len(layers) <= most or not separations else furthest(separations, most)
    shown = _screen(options, engine, few, screened, screen_scale, stages)
    limit = options.max_perplexity_ratio
    reaches = {each: reach(shown[each], screen_scale, limit, scales) for each in shown}
    kept = furthest(reaches, SEARCHED)
    rounds = sum(IN_THE_RACE)
    many = smaller(part, SEARCH_TOKENS // rounds, engine, options.on)
    starts = {
        each: first_strength(fluency_limit(shown[each], screen_scale, limit, scales), scales)
        for each in kept
    }
    cells = _search(options, engine, many, starts, scales, stages)
    search = Search(
        kind="staged",
        screen_scale=screen_scale,
        screen_pairs=len(few.positives),
        screen_neutral=len(few.neutral),
        search_pairs=len(many.positives),
        search_neutral=len(many.neutral),
        layers=tuple(
            LayerSearch(
                layer=each,
                separation=separations.get(each),
                screened=shown.get(each),
                reach=reaches.get(each),
                searched=each in kept,
                why=_why(each, reaches, kept, cost),
            )
            for each in layers
        ),
    )
    return Found(cells, kept, search)


def _screen(
    options: FitOptions,
    engine: FitEngine,
    part: Part,
    layers: Sequence[int],
    scale: float,
    stages: Stages,
) -> dict[int, Figures]:
    with stages.stage(SCREEN, engine) as tell:
        meter = PartMeter(options, engine, part, tell(None))
        steerings = fitted((layer, scale) for layer in layers)
        measured = meter.cells(steerings, tell(len(steerings) * meter.texts))
    return {each.layer: found.cell.figures for each, found in measured.items()}


def _search(
    options: FitOptions,
    engine: FitEngine,
    part: Part,
    starts: Mapping[int, float],
    scales: Sequence[float],
    stages: Stages,
) -> tuple[Cell, ...]:
    limit = options.max_perplexity_ratio
    races = {layer: _Race({}, start) for layer, start in starts.items()}
    cells: list[Cell] = []
    with stages.stage(SEARCH, engine) as tell:
        meter = PartMeter(options, engine, part, tell(None))
        for number in IN_THE_RACE:
            ahead = sorted(races, key=lambda layer: _place(races[layer], limit), reverse=True)
            asked = [(each, races[each].next) for each in sorted(ahead[:number])]
            steerings = fitted((layer, scale) for layer, scale in asked if scale is not None)
            if not steerings:
                continue
            measured = meter.cells(steerings, tell(len(steerings) * meter.texts))
            for each, found in measured.items():
                race = races[each.layer]
                race.tried[each.scale] = found.cell.figures
                race.next = next_strength(race.tried, scales, limit, finer=options.finer)
                cells.append(found.cell)
    return tuple(cells)


def _place(race: _Race, limit: float) -> tuple[bool, float]:
    if not race.tried:
        return True, 0.0
    return standing(race.tried[best_strength(race.tried, limit)], limit)


def _why(layer: int, reaches: Mapping[int, float], kept: Sequence[int], cost: int) -> str:
    if layer in kept:
        return "searched"
    if layer in reaches:
        last = min(reaches[each] for each in kept)
        return f"reach {reaches[layer]:+.3g}, {len(kept)} layers have {last:+.3g} or more"
    return f"not screened: {cost} tokens a layer are too many for all, and others separate better"


def fed_tokens(part: Part, engine: FitEngine, on: str) -> int:
    """Count the tokens that the engine computes of a part's texts under one steering."""

    def own(line: ScoredText) -> int:
        return len(line.ids) - engine.shared_tokens(line)

    if on == "output":  # the prompt is the unsteered one, which is there already
        return sum(own(line) for line in (*part.positives, *part.negatives, *part.neutral))
    whole = sum(len(line.ids) for line in (*part.positives, *part.neutral))
    return whole + sum(own(line) for line in part.negatives)


def smaller(part: Part, tokens: int, engine: FitEngine, on: str) -> Part:
    """Thin a part out evenly until it costs so many tokens under one steering; no questions.

    At least `LEAST_PAIRS` pairs, where there are as many, and one neutral text.
    """
    pairs = len(part.positives)

    def share(count: int) -> Part:
        return replace(
            part,
            questions=(),
            groups=_evenly(part.groups, count),
            positives=_evenly(part.positives, count),
            negatives=_evenly(part.negatives, count),
            neutral=_evenly(part.neutral, -(-len(part.neutral) * count // pairs)),
        )

    low, high = min(LEAST_PAIRS, pairs), pairs + 1
    while high - low > 1:
        count = (low + high) // 2
        if fed_tokens(share(count), engine, on) <= tokens:
            low = count
        else:
            high = count
    return share(low)


def _evenly(given: Sequence[T], count: int) -> tuple[T, ...]:
    return tuple(given[index * len(given) // count] for index in range(count))
