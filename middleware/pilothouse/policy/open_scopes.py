"""Doors that a rule's scope leaves open: callers, names and endpoints that it does not hold for."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from pilothouse.policy.ending_rules import EndingRule, EndingRules, OpenDoor
from pilothouse.policy.endpoint_names import ENDPOINTS
from pilothouse.policy.matching import holds_for
from pilothouse.validation_errors import Location

_SHARE_REMEDY = "raise rollout_percent to 100 once the policy is trusted"


def outside_the_scope(mine: EndingRule, rules: EndingRules) -> Iterator[OpenDoor]:
    """Yield the callers, names and endpoints that a rule does not hold for."""
    around = rules.around
    missing = [
        each
        for each in ENDPOINTS
        if not holds_for(mine.patterns("endpoints"), each)
        and not rules.same_elsewhere(mine, "endpoints", each)
    ]
    if missing:
        yield mine.door(
            "endpoint",
            ("spec", "match", "endpoints"),
            f"it does not hold on {' and '.join(missing)}, where the same can be asked",
            'write `endpoints: ["*"]`',
        )
    yield from _tenants(mine, rules)
    profiles = mine.patterns("profiles")
    if not holds_for(profiles, "") and not rules.same_elsewhere(mine, "profiles", ""):
        known = around.profiles
        if known is not None and not any(holds_for(profiles, each) for each in known):
            yield mine.door(
                "nobody",
                ("spec", "match", "profiles"),
                "it holds for no profile that is configured, and for no request without one",
                f'write `profiles: ["*"]`, or one of {sorted(known)}',
            )
        else:
            yield mine.door(
                "profile",
                ("spec", "match", "profiles"),
                "asking for the model by its own name, without a profile, goes past it",
                'write `profiles: ["*"]`, unless it is about that steering alone',
                "note",
            )
    served = around.served_names
    if served is not None and not any(
        holds_for(mine.patterns("models"), each) or rules.same_elsewhere(mine, "models", each)
        for each in served
    ):
        names = [each for each in around.adapters if holds_for(mine.patterns("models"), each)]
        yield mine.door(
            "model" if names else "nobody",
            ("spec", "match", "models"),
            f"it holds for the adapters {', '.join(names)} alone"
            if names
            else f"it holds for none of the names that are served ({', '.join(served)})",
            'write `models: ["*"]`, or a served name',
            "note" if names else "warning",
        )


def _tenants(mine: EndingRule, rules: EndingRules) -> Iterator[OpenDoor]:
    if holds_for(mine.patterns("tenants"), "") or rules.same_elsewhere(mine, "tenants", ""):
        return
    at: Location = ("spec", "match", "tenants")
    auth = rules.around.auth
    cidrs = auth.trusted_proxies.cidrs if auth is not None else None
    if cidrs == ():
        yield mine.door(
            "nobody",
            at,
            "without auth.trusted_proxies no caller has a tenant, so it holds for nobody",
            'write `tenants: ["*"]`, or name the proxies',
        )
    elif cidrs is not None and any(_is_everyone(each) for each in cidrs):
        yield mine.door(
            "tenant",
            at,
            "auth.trusted_proxies trusts every peer to name its tenant, so a caller "
            "takes one that it does not hold for",
            "name the proxies' own addresses under auth.trusted_proxies.cidrs",
        )
    else:
        yield mine.door(
            "tenant",
            at,
            "who reaches the server past the trusted proxies has no tenant and is not held",
            'let the proxies alone reach it, or enforce the like for `tenants: ["*"]`',
            "note",
        )


def outside_the_share(mine: EndingRule, rules: EndingRules) -> Iterator[OpenDoor]:
    """Yield the share of callers for whom a rule is not enforced yet."""
    share = mine.policy.spec.rollout_percent
    if share == 100:
        return
    reason = f"it is enforced for {share:g}% of the callers"
    if rules.around.has_keys is False:
        reason += (
            ", drawn by address where there are no API keys: one with several picks among them"
        )
        yield mine.door("rollout", ("spec", "rollout_percent"), reason, _SHARE_REMEDY)
    else:
        yield mine.door("rollout", ("spec", "rollout_percent"), reason, _SHARE_REMEDY, "note")


def _is_everyone(cidr: str) -> bool:
    try:
        return ipaddress.ip_network(cidr).prefixlen == 0
    except ValueError:
        return False  # refused where the server starts
