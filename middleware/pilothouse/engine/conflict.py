"""Steering must not blind a rule: an edit below a layer that an enforced rule reads is refused.

Reads see the residual stream before the edits of the same tap, so an edit at the read's own layer
or above leaves every read as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pilothouse.engine.plan import Plan
from pilothouse.errors import RequestError
from pilothouse.policy.rulebook import Rulebook
from pilothouse.term import SteerTerm


def enforced_read_layers(rulebook: Rulebook) -> Mapping[str, str]:
    """Probe -> policy, of every probe that an enforced policy's rule reads."""
    probe_of = {spec.key: spec.probe for spec in rulebook.signals}
    return {
        probe_of[key]: rule.policy
        for rule in rulebook.rules
        if rule.mode == "enforce"
        for key in rule.signals
    }


def refuse_conflicts(
    terms: Sequence[SteerTerm], plan: Plan, enforced: Mapping[str, str], *, origin: str
) -> None:
    """Check a request's or a profile's steering.

    Raises:
        RequestError: a term edits below a layer that an enforced rule's probe reads.
    """
    for term in terms:
        layers = term.layers or plan.body.vectors[term.vector].layers
        for probe, policy in enforced.items():
            facts = plan.body.probes[probe]
            below = [layer for layer in layers if layer < max(facts.layers)]
            if below and not facts.evaluated_under_steering:
                raise RequestError(
                    f"{origin}: vector {term.vector!r} edits layers {below}, below layer "
                    f"{max(facts.layers)} where probe {probe!r} of the enforced policy {policy!r} "
                    f"reads: steer at layer {max(facts.layers)} or above",
                    param="pilothouse.steer",
                )
