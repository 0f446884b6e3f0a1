"""Decides which policies hold for a request, and whether their verdicts are carried out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pilothouse.policy.endpoint_names import EndpointName
from pilothouse.policy.schema import Policy
from pilothouse.signed_request import AppliedPolicy

_BUCKETS = 1_000_000


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What is known of a request from authentication and routing, never from its text.

    Attributes:
        tenant: the authenticated tenant.
        model: the served model's name.
        profile: the profile picked as model name; None matches only patterns that match "".
        endpoint: the endpoint family.
        rollout_key: what `rollout_percent` is drawn by, beside the tenant: stable for one user
            or key, so that a caller stays on one side.
    """

    tenant: str
    model: str
    profile: str | None
    endpoint: EndpointName
    rollout_key: str


def applied_policies(policies: Iterable[Policy], facts: RequestFacts) -> tuple[AppliedPolicy, ...]:
    """Return the policies that match, in order, each enforced or in shadow for this request."""
    return tuple(
        AppliedPolicy(name=policy.name, enforced=_enforced(policy, facts))
        for policy in policies
        if _matches(policy, facts)
    )


def _matches(policy: Policy, facts: RequestFacts) -> bool:
    match = policy.spec.match
    return (
        holds_for(match.tenants, facts.tenant)
        and holds_for(match.models, facts.model)
        and holds_for(match.profiles, facts.profile or "")
        and holds_for(match.endpoints, facts.endpoint)
    )


def holds_for(patterns: tuple[str, ...], value: str) -> bool:
    """Tell whether one of the globs matches."""
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def _enforced(policy: Policy, facts: RequestFacts) -> bool:
    """Tell whether a hash of policy, tenant and key in [0, 100) is below the percentage.

    The policy's name is in the hash so that several roll-outs do not pick the same callers. A
    caller that is enforced stays so when the percentage rises.
    """
    if policy.spec.mode != "enforce":
        return False
    identity = "\0".join((policy.name, facts.tenant, facts.rollout_key)).encode()
    bucket = int.from_bytes(hashlib.sha256(identity).digest()[:8]) % _BUCKETS
    return bucket * 100 < policy.spec.rollout_percent * _BUCKETS
