"""Steering must not blind a rule: an edit below a layer that an enforced rule reads is refused.

Reads see the stream before the edits of the same tap, so an edit at the read's own tap or above
leaves every read as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pilothouse.edits.place import places_of
from pilothouse.engine.plan.plan import Plan
from pilothouse.errors import RequestError
from pilothouse.policy.rulebook import Rulebook
from pilothouse.term import SteerTerm
from pilothouse.types import Tap


def enforced_read_layers(rulebook: Rulebook) -> Mapping[str, str]:
    """Probe -> policy, of every probe that an enforced policy's rule reads."""
    probe_of = {spec.key: spec.probe for spec in rulebook.signals}
    return {
        probe_of[key]: rule.policy
        for rule in rulebook.rules
        if rule.mode == "enforce"
        for key in rule.signals
    }


def check_read_layers(
    terms: Sequence[SteerTerm], plan: Plan, enforced: Mapping[str, str], *, origin: str
) -> None:
    """Check a request's or a profile's steering.

    Raises:
        RequestError: a term edits below a layer that an enforced rule's probe reads.
    """
    for term in terms:
        edited = [tap for tap, _ in places_of(term, plan.sources)]
        for probe, policy in enforced.items():
            facts = plan.body.probes[probe]
            read = Tap(max(facts.layers), facts.site)
            below = sorted({each.layer for each in edited if each.depth < read.depth})
            if below and not facts.evaluated_under_steering:
                sites = " and ".join(sorted({each.site for each in edited}))
                raise RequestError(
                    f"{origin}: {term.name!r} edits {sites} at layers {below}, "
                    f"below {read.site} of layer {read.layer} where probe {probe!r} of the "
                    f"enforced policy {policy!r} reads: steer at layer {read.layer} or above",
                    param="pilothouse.steer",
                )
