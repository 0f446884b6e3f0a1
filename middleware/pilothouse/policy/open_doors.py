"""Ways round an enforced rule that ends requests, which scopes, readouts and settings leave open.

`policy lint`, `doctor`, the log of the start and the status of a running server report this one
list; each knows more of the server's settings than the one before. What is not known opens no door
here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from pilothouse.aggregate import TRAITS
from pilothouse.head import TRAITS as HEAD_TRAITS
from pilothouse.policy.ending_rules import (
    DoorName,
    EndingRule,
    EndingRules,
    OpenDoor,
    Specs,
    Surroundings,
    ending_rules,
)
from pilothouse.policy.endpoint_names import ENDPOINTS
from pilothouse.policy.expression import And, AtFpr, Comparison, Node, Not, Or
from pilothouse.policy.matching import holds_for
from pilothouse.policy.schema import Policy, Respond
from pilothouse.types import SignalSpec
from pilothouse.validation_errors import Location, Severity

_SHARE_REMEDY = "raise rollout_percent to 100 once the policy is trusted"


def open_doors(
    policies: Iterable[Policy], specs: Specs, around: Surroundings
) -> tuple[OpenDoor, ...]:
    """Return every way round every enforced rule that ends requests, in the order of the rules."""
    rules = ending_rules(policies, specs, around)
    return tuple(door for rule in rules.rules for find in _KINDS for door in find(rule, rules))


def grouped(doors: Iterable[OpenDoor]) -> list[dict[str, object]]:
    """Return doors as plain data; one that leads round several rules is there once."""
    rules: dict[tuple[DoorName, str, str, Severity], list[str]] = {}
    for each in doors:
        rules.setdefault((each.name, each.reason, each.remedy, each.severity), []).append(each.rule)
    return [
        {"door": name, "severity": severity, "rules": found, "reason": reason, "remedy": remedy}
        for (name, reason, remedy, severity), found in rules.items()
    ]


def _outside_the_scope(mine: EndingRule, rules: EndingRules) -> Iterator[OpenDoor]:
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


def _outside_the_share(mine: EndingRule, rules: EndingRules) -> Iterator[OpenDoor]:
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


def _grants(mine: EndingRule, rules: EndingRules) -> Iterator[OpenDoor]:
    auth = rules.around.auth
    to_whom = "callers on this machine" if rules.around.for_this_machine else "every client"
    if auth is not None and auth.client_scores:
        yield mine.door(
            "client-scores",
            (),
            f"auth.client_scores shows {to_whom} what it reads, so that a "
            "text can be searched for on which that is low",
            "turn the grant off",
        )
    steered = auth is not None and auth.client_steering and mine.rule.phase == "prompt"
    if steered and not rules.has_output_half(mine):
        yield mine.door(
            "client-steering",
            (),
            f"auth.client_steering lets {to_whom} steer what the model "
            "says behind the place where it reads, and no rule reads what is said",
            "turn the grant off, or add an output or final rule that ends",
        )


def _readouts(mine: EndingRule, rules: EndingRules) -> Iterator[OpenDoor]:
    phase, read = mine.rule.phase, mine.read
    at: Location = ("spec", "rules", mine.index, "when")
    reads_prompt = any(each.scope == "prompt" for each in read)
    if phase != "prompt" and reads_prompt and not rules.same_in_phase(mine, "prompt"):
        yield mine.door(
            "prompt-read-late",
            at,
            "it reads the prompt in a later phase: what a client writes "
            "of an answer is scored again for rules of the prompt phase alone",
            "make it a rule of `phase: prompt`",
        )
    reads_end = {
        TRAITS[each.aggregate.kind].reads_end
        and each.scope != "prompt"
        and not HEAD_TRAITS[each.head].pools
        for each in read
    }
    if phase == "final" and reads_end == {True} and not rules.same_in_phase(mine, "output"):
        yield mine.door(
            "last-token",
            at,
            "it reads where the answer ends, and a client chooses that "
            "(max_tokens, stop, a grammar)",
            "use `phase: output`, or a readout by `max`",
        )
    if {_is_diluted(each) for each in read} == {True}:
        by_head = any(HEAD_TRAITS[each.head].falls_with_length for each in read)
        yield mine.door(
            "mean",
            at,
            "it reads a mean over text whose length the client chooses, or the end of a prompt: "
            "harmless text lowers that",
            "use a linear head by `max`, or one that does not weigh all tokens together"
            if by_head
            else "use a readout by `max` or `last`, or another maximum",
        )
    lowered = sorted(set(_lowered_by(mine.root, True))) if mine.root is not None else []
    if lowered:
        names = " and ".join(f"`{name}`" for name in lowered)
        yield mine.door(
            "exception",
            at,
            f"it does not fire where {names} is high, and a client writes text that makes it so",
            "log the exception instead, and block without it",
        )


def _is_diluted(spec: SignalSpec) -> bool:
    """Whether text that a client adds lowers a value: anywhere, or at the end of a prompt."""
    traits, head = TRAITS[spec.aggregate.kind], HEAD_TRAITS[spec.head]
    if traits.falls_with_length or head.falls_with_length:
        return True
    # `last` over a prompt is read where an assistant's turn opens, and keeps the largest; behind a
    # head that pools it is the value over all tokens.
    is_at_the_end = traits.reads_end and not head.pools and spec.aggregate.kind != "last"
    return is_at_the_end and spec.scope == "prompt"


def _lowered_by(node: Node, wanted: bool) -> Iterator[str]:
    """Yield the signals whose rise can turn a condition from true to false."""
    match node:
        case AtFpr():
            if not wanted:
                yield node.signal
        case Comparison():
            if node.order.startswith(">") != wanted:
                yield node.signal
        case Not():
            yield from _lowered_by(node.operand, not wanted)
        case And() | Or():
            for part in node.parts:
                yield from _lowered_by(part, wanted)


def _unread(mine: EndingRule, rules: EndingRules) -> Iterator[OpenDoor]:
    around, is_alone = rules.around, not rules.has_output_half(mine)
    if mine.rule.phase == "prompt" and is_alone and around.renders_chats is False:
        yield mine.door(
            "no-template",
            (),
            "the model has no chat template, so what a client writes of an "
            "answer (a begun one, a grammar) cannot be scored as a user's turn",
            "give one with --chat-template, or add an output or final rule that ends",
        )
    if mine.rule.phase == "prompt" and is_alone:
        yield mine.door(
            "own-words",
            (),
            "no rule reads what the model says of itself: a request that it does "
            "not know for one is answered",
            "set score_answers, or add an output or final rule that ends",
            "note",
        )
    if around.adapters:
        yield mine.door(
            "adapters",
            (),
            f"a client may ask for an adapter ({', '.join(around.adapters)}), and "
            "probes were fitted on the model without one",
            "evaluate the probes under each adapter",
            "note",
        )
    if around.takes_pictures:
        yield mine.door(
            "pictures",
            (),
            "the model takes pictures or sound, and probes were fitted on text",
            "set --limit-mm-per-prompt to 0, or evaluate the probes on them",
            "note",
        )


def _server(mine: EndingRule, rules: EndingRules) -> Iterator[OpenDoor]:
    if rules.around.opened:
        yield mine.door(
            "gate-allow",
            (),
            f"gate.allow lets every caller at {', '.join(rules.around.opened)}, "
            "which changes the running server",
            "take it out of gate.allow",
        )
    if rules.around.has_metrics:
        yield mine.door(
            "metrics",
            (),
            "/metrics tells whoever reaches it how high each request scored "
            "(pilothouse_probe_score), blocked ones too",
            "let the proxy in front give /metrics to Prometheus alone",
            "note",
        )


def _errors(mine: EndingRule, _: EndingRules) -> Iterator[OpenDoor]:
    said = mine.policy.spec.on_error
    if said == "open" or (said is None and isinstance(mine.rule.then, Respond)):
        yield mine.door(
            "on-error",
            ("spec", "on_error"),
            "a request without a score passes",
            "write `on_error: closed`",
            "note",
        )


_KINDS = (
    _outside_the_scope,
    _outside_the_share,
    _grants,
    _readouts,
    _unread,
    _server,
    _errors,
)
