"""Steering within bounds: operators that the taps have tables for, edits within the norm limit.

Terms are taken together clause by clause, wherever in the clause they hold: what a request may
do does not depend on how long its prompt is.
"""

from __future__ import annotations

from collections.abc import Sequence

from pilothouse.edits.operators import features_of
from pilothouse.edits.program import compile_program, growth
from pilothouse.engine.plan.check_capacity import unfit
from pilothouse.engine.plan.check_finite import overflow_problem
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.steering_cost import CLAUSES, refuse_cost
from pilothouse.errors import RequestError
from pilothouse.term import SteerTerm


def check_norm_limit(terms: Sequence[SteerTerm], plan: Plan, *, origin: str) -> None:
    """Check a request's or a profile's steering as a whole.

    Raises:
        RequestError: terms that cost too much, do not fit together, need what no tap has, overflow,
            or are over `limits.max_norm_ratio`; the message begins with `origin`.
    """
    refuse_cost(terms, plan.sources, plan.body.limits, origin=origin)
    limit = plan.body.limits.max_norm_ratio
    for clause in CLAUSES:
        holding = tuple(term for term in terms if term.on in (clause, "all"))
        try:
            program = compile_program(holding, plan.sources)
            if program is None:
                continue
            problem = unfit(program, plan.taps()) or overflow_problem(program)
            bounds = growth(holding, plan.sources)
        except RequestError as error:
            raise RequestError(f"{origin}: {error}", param=origin) from error
        if problem is not None:
            raise RequestError(f"{origin}: {problem}", param=origin)
        for tap, ratio in bounds.items():
            if not ratio <= limit:
                raise RequestError(
                    f"{origin}: on {clause} tokens at layer {tap.layer} got an edit of {ratio:.3g} "
                    f"times the mean residual norm, want at most {limit:g} "
                    "(limits.max_norm_ratio); use a smaller scale",
                    param=origin,
                )


def refuse_unreserved(term: SteerTerm, plan: Plan, place: str) -> None:
    """Check that an operator a client asks for is one that clients were given.

    Raises:
        RequestError: it is not listed under `taps.operators`; names the field.
    """
    wanted = features_of(term, plan.sources.of(term))
    for name, feature in wanted.items():
        if feature not in plan.body.operators:
            raise RequestError(
                f"{place}.{name}: got {feature!r}, available are {list(plan.body.operators)}; the "
                "operator of the server lists more under taps.operators",
                param=f"{place}.{name}",
            )
