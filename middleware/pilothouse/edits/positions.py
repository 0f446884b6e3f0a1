"""Which positions a term means, as intervals of absolute positions.

The prompt is [0, n), the output is [n, forever): position n is the first sampled token, once fed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

from pilothouse.term import SteerTerm

FOREVER = 1 << 60
Interval = tuple[int, int]
Held = tuple[int, ...]
"""Which of a request's terms hold: their places in its list, ascending."""


def intervals(term: SteerTerm, tokens: Sequence[int], num_prompt_tokens: int) -> list[Interval]:
    """Return where a term holds, ascending, apart from each other, as far as `tokens` tells.

    Args:
        num_prompt_tokens: how many tokens the prompt has.
        term: the term.
        tokens: the prompt's token ids and the output's so far; only `after` looks at them.
    """
    return merged(_clipped(_named(term, tokens, num_prompt_tokens), term, num_prompt_tokens))


def looks_at_output(term: SteerTerm) -> bool:
    """Tell whether tokens that are sampled later decide where the term holds."""
    where = term.positions
    return term.on != "prompt" and where is not None and where.after is not None


def segments(places: Sequence[Sequence[Interval]]) -> list[tuple[Interval, Held]]:
    """Positions cut where the set of terms that hold changes; stretches without any left out.

    Args:
        places: the intervals of each term.
    """
    turns: dict[int, list[tuple[int, bool]]] = defaultdict(list)
    for index, each in enumerate(places):
        for start, stop in each:
            turns[start].append((index, True))
            turns[stop].append((index, False))
    cuts = sorted(turns)
    holds: set[int] = set()
    found = []
    for start, stop in pairwise(cuts):
        for index, on in turns[start]:
            (holds.add if on else holds.discard)(index)
        if holds:
            found.append(((start, stop), tuple(sorted(holds))))
    return found


def merged(found: Iterable[Interval]) -> list[Interval]:
    """Merge intervals into ascending ones that neither overlap nor touch; drop empty ones."""
    kept: list[Interval] = []
    for start, stop in sorted(each for each in found if each[0] < each[1]):
        if kept and start <= kept[-1][1]:
            kept[-1] = (kept[-1][0], max(stop, kept[-1][1]))
        else:
            kept.append((start, stop))
    return kept


def _named(term: SteerTerm, tokens: Sequence[int], n: int) -> list[Interval]:
    where = term.positions
    low, high = _bounds(term, n)
    if where is None:
        return [(low, high)]
    if where.first is not None:
        return [(low, low + where.first)]
    if where.last is not None:
        return [(n - where.last, n)]
    if where.window is not None:
        return [(n + where.window[0], n + where.window[1])]
    if where.indices is not None:
        absolute = (i if i >= 0 else n + i for i in where.indices)
        return [(i, i + 1) for i in absolute]
    marks = frozenset(where.after or ())
    return [
        (i + 1, high if where.span is None else i + 1 + where.span)
        for i, token in enumerate(tokens)
        if token in marks
    ]


def _clipped(found: list[Interval], term: SteerTerm, n: int) -> list[Interval]:
    low, high = _bounds(term, n)
    return [(max(start, low), min(stop, high)) for start, stop in found]


def _bounds(term: SteerTerm, n: int) -> Interval:
    return (n if term.on == "output" else 0, n if term.on == "prompt" else FOREVER)
