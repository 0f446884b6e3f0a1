"""Decides which policies hold for a request, whether they are carried out, and what they need."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pilothouse.errors import ConfigError
from pilothouse.policy.endpoint_names import EndpointName
from pilothouse.policy.rulebook import Rulebook
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


@dataclass(frozen=True, slots=True)
class GuardRequirements:
    """What the enforced rules of one request need of the gate."""

    applied: tuple[AppliedPolicy, ...]
    holds_start: bool
    """A prompt rule may answer with an HTTP error, so headers wait for its verdict."""
    buffers: bool
    """A final rule may end the answer, so nothing of it leaves before its end."""
    ends_output: bool
    """Some rule may end the answer after generation began."""

    scores_answers: tuple[AppliedPolicy, ...] = ()
    """Policies whose prompt rules are judged again over each answer."""

    @property
    def ends(self) -> bool:
        """Some rule may end the answer, at one time or another."""
        return self.holds_start or self.ends_output


class RequirementsCache:
    """`GuardRequirements` by applied policies, memoised: there are few distinct sets."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._rules = rulebook.rules
        self._scoring = {each.name for each in rulebook.policies if each.spec.score_answers}
        self._known: dict[tuple[AppliedPolicy, ...], GuardRequirements] = {}

    def of(self, applied: Iterable[AppliedPolicy]) -> GuardRequirements:
        """Return what the enforced rules of these policies need."""
        key = tuple(applied)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._worked_out(key)
        return found

    def _worked_out(self, applied: tuple[AppliedPolicy, ...]) -> GuardRequirements:
        names = {each.name for each in applied if each.enforced}
        phases = {rule.phase for rule in self._rules if rule.policy in names and rule.ends}
        return GuardRequirements(
            applied=applied,
            holds_start="prompt" in phases,
            buffers="final" in phases,
            ends_output=not phases.isdisjoint(("output", "final")),
            scores_answers=tuple(
                each for each in applied if each.enforced and each.name in self._scoring
            ),
        )


def refuse_scored_answers(policies: Iterable[Policy], reason: str) -> None:
    """Stop a start where answers cannot be brought as a user's turn.

    Raises:
        ConfigError: an enforced policy asks for it.
    """
    asking = [each.name for each in policies if each.spec.score_answers]
    if asking:
        raise ConfigError(
            f"policy {asking[0]}: spec.score_answers cannot take effect: {reason}, or remove it"
        )
