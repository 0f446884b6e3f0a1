"""The programs of one request: each set of terms that can hold together, compiled once.

Choices of one request have the same terms, so they share one of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from pilothouse.edits.positions import (
    FOREVER,
    Held,
    Interval,
    looks_at_output,
    merged,
    segments,
)
from pilothouse.edits.program import Program, compile_program
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.validate import capacity_problem, overflow_problem
from pilothouse.errors import RequestError
from pilothouse.term import SteerTerm


class RequestPrograms:
    """Programs by which of a request's terms hold; made when first asked for."""

    def __init__(self, terms: Sequence[SteerTerm], plan: Plan) -> None:
        self.terms = tuple(terms)
        self.waiting = tuple(i for i, term in enumerate(terms) if looks_at_output(term))
        """Terms that wait for tokens to be sampled."""
        self._plan = plan
        self._known: dict[Held, Program | None] = {}

    def of(self, held: Held) -> Program | None:
        """What these terms do together; None where that is nothing.

        Raises:
            RequestError: they do not fit the taps.
        """
        if held not in self._known:
            terms = tuple(self.terms[index] for index in held)
            self._known[held] = _program(terms, self._plan)
        return self._known[held]

    def reachable(
        self, places: Sequence[Sequence[Interval]], num_prompt_tokens: int
    ) -> tuple[Program, ...]:
        """Every different program that can be needed, whatever is sampled.

        Args:
            places: the intervals of each term, as far as the prompt tells.
        """
        found = (self.of(held) for held in self._sets(places, num_prompt_tokens))
        return tuple({each.digest: each for each in found if each is not None}.values())

    def _sets(self, places: Sequence[Sequence[Interval]], count: int) -> Iterator[Held]:
        for (start, _), held in segments(places):
            if start < count:
                yield held
        known = [
            () if index in self.waiting else tuple((max(low, count), high) for low, high in each)
            for index, each in enumerate(places)
        ]
        known = [tuple(each for each in where if each[0] < each[1]) for where in known]
        bases: set[Held] = {held for _, held in segments(known)}
        if merged(each for where in known for each in where) != [(count, FOREVER)]:
            bases.add(())
        for base, taken in product(sorted(bases), _subsets(self.waiting)):
            if base or taken:
                yield tuple(sorted((*base, *taken)))


def _subsets(indices: Sequence[int]) -> list[Held]:
    found: list[Held] = [()]
    for index in indices:
        found += [(*each, index) for each in found]
    return found


def _program(terms: tuple[SteerTerm, ...], plan: Plan) -> Program | None:
    program = compile_program(terms, plan.sources)
    if program is None:
        return None
    problem = capacity_problem(program, plan.taps()) or overflow_problem(program)
    if problem is not None:
        raise RequestError(f"steer: {problem}", param="steer")
    return program
