"""What steering will cost, counted from its terms before anything of it is compiled.

What holds where depends on the prompt, which the gate does not know as tokens: these are bounds
over every prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

from pilothouse.edits.operators import places_of
from pilothouse.edits.sources import Sources
from pilothouse.limits import Limits, refuse_count
from pilothouse.term import SteerTerm
from pilothouse.types import Clause

CLAUSES: tuple[Clause, ...] = ("prompt", "output")


def refuse_cost(
    terms: Sequence[SteerTerm], sources: Sources, limits: Limits, *, origin: str
) -> None:
    """Check terms that are one request's, or one profile's, against the bounds on their cost.

    Raises:
        RequestError: more than a bound allows, or a name or layer that is not loaded; the message
            begins with `origin`.
    """
    refuse_count(origin, len(terms), "max_terms", limits, origin)
    refuse_count(f"{origin}.positions", num_positions(terms), "max_positions", limits, origin)
    programs = num_programs(terms)
    name = "max_request_programs"
    if limits.max_programs < limits.max_request_programs:
        name = "max_programs"
    refuse_count(f"{origin}: sets of terms that hold together", programs, name, limits, origin)
    values = programs * sum(_num_values(term, sources) for term in terms)
    refuse_count(f"{origin}: numbers to compile", values, "max_edit_values", limits, origin)


def num_positions(terms: Sequence[SteerTerm]) -> int:
    """Count the positions under `indices` and `after`."""
    placed = [term.positions for term in terms if term.positions is not None]
    return sum(len(each.indices or ()) + len(each.after or ()) for each in placed)


def num_programs(terms: Sequence[SteerTerm]) -> int:
    """Bound how many different sets of terms hold together at one position or another."""
    whole = sum(_num_sets(terms, clause) for clause in CLAUSES)
    if all(term.on == "all" for term in terms):
        # The same sets in both clauses.
        num_placed = sum(term.positions is not None for term in terms)
        whole = min(whole, (1 << num_placed) - (num_placed == len(terms)))
    return whole


def _num_sets(terms: Sequence[SteerTerm], clause: Clause) -> int:
    """Count sets in a clause: stretches cut it at their ends, single positions stand out."""
    holding = [term.positions for term in terms if term.on in (clause, "all")]
    placed = [each for each in holding if each is not None]
    if not holding:
        return 0
    singles = {index for each in placed for index in each.indices or ()}
    cuts = sum(2 if each.window else bool(each.first or each.last) for each in placed)
    num_after = sum(each.after is not None for each in placed)
    subsets = 1 << (len(placed) - num_after)
    if subsets > 1 + cuts + len(singles):
        return (1 + cuts + len(singles)) << num_after
    # Every subset is counted: the one in which nothing holds needs no program.
    return (subsets << num_after) - (len(holding) == len(placed))


def _num_values(term: SteerTerm, sources: Sources) -> int:
    places = places_of(term, sources)
    features = len(term.feature) if isinstance(term.feature, tuple) else 1
    width: int = sources.of(term).width
    return len(places) * width * features
