"""Ways round an enforced rule that ends requests, which scopes, readouts and settings leave open.

`policy lint`, `doctor`, the log of the start and the status of a running server tell this one list;
each knows more than the one before of what stands around the policies. What is not known opens no
door here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pilothouse.aggregate import TRAITS
from pilothouse.policy.ending_rules import (
    DoorName,
    EndingRule,
    EndingRules,
    OpenDoor,
    Specs,
    Surroundings,
    ending_rules,
)
from pilothouse.policy.expression import And, AtFpr, Comparison, Node, Not, Or
from pilothouse.policy.open_scopes import outside_the_scope, outside_the_share
from pilothouse.policy.schema import Policy, Respond
from pilothouse.policy.source import Location, Severity


def open_doors(
    policies: Iterable[Policy], specs: Specs, around: Surroundings
) -> tuple[OpenDoor, ...]:
    """Every way round every enforced rule that ends requests, in the order of the rules."""
    house = ending_rules(policies, specs, around)
    return tuple(door for rule in house.rules for find in _KINDS for door in find(rule, house))


def grouped(doors: Iterable[OpenDoor]) -> list[dict[str, object]]:
    """As plain data, a door that leads round several rules told once."""
    rules: dict[tuple[DoorName, str, str, Severity], list[str]] = {}
    for each in doors:
        rules.setdefault((each.name, each.reason, each.remedy, each.severity), []).append(each.rule)
    return [
        {"door": name, "severity": severity, "rules": found, "reason": reason, "remedy": remedy}
        for (name, reason, remedy, severity), found in rules.items()
    ]


def _grants(mine: EndingRule, house: EndingRules) -> Iterator[OpenDoor]:
    auth = house.around.auth
    to_whom = "callers on this machine" if house.around.for_this_machine else "every client"
    if auth is not None and auth.client_scores:
        yield mine.door(
            "client-scores",
            (),
            f"auth.client_scores shows {to_whom} what it reads, so that a "
            "text can be searched for on which that is low",
            "turn the grant off",
        )
    steered = auth is not None and auth.client_steering and mine.rule.phase == "prompt"
    if steered and not house.has_output_half(mine):
        yield mine.door(
            "client-steering",
            (),
            f"auth.client_steering lets {to_whom} steer what the model "
            "says behind the place where it reads, and no rule reads what is said",
            "turn the grant off, or add an output or final rule that ends",
        )


def _readouts(mine: EndingRule, house: EndingRules) -> Iterator[OpenDoor]:
    phase, read = mine.rule.phase, mine.read
    at: Location = ("spec", "rules", mine.index, "when")
    reads_prompt = any(each.scope == "prompt" for each in read)
    if phase != "prompt" and reads_prompt and not house.same_in_phase(mine, "prompt"):
        yield mine.door(
            "prompt-read-late",
            at,
            "it reads the prompt in a later phase: what a client writes "
            "of an answer is scored again for rules of the prompt phase alone",
            "make it a rule of `phase: prompt`",
        )
    reads_end = {
        (TRAITS[each.aggregate.kind].reads_end and each.scope != "prompt") for each in read
    }
    if phase == "final" and reads_end == {True} and not house.same_in_phase(mine, "output"):
        yield mine.door(
            "last-token",
            at,
            "it reads where the answer ends, and a client chooses that "
            "(max_tokens, stop, a grammar)",
            "use `phase: output`, or a readout by `max`",
        )
    if {TRAITS[each.aggregate.kind].falls_with_length for each in read} == {True}:
        yield mine.door(
            "mean",
            at,
            "it reads a mean over text whose length the client chooses: harmless "
            "text around it lowers that",
            "use a readout by `max` or `last`",
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


def _lowered_by(node: Node, wanted: bool) -> Iterator[str]:
    """Signals whose rise can turn a condition from true to false."""
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


def _unread(mine: EndingRule, house: EndingRules) -> Iterator[OpenDoor]:
    around, is_alone = house.around, not house.has_output_half(mine)
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


def _server(mine: EndingRule, house: EndingRules) -> Iterator[OpenDoor]:
    if house.around.opened:
        yield mine.door(
            "gate-allow",
            (),
            f"gate.allow lets every caller at {', '.join(house.around.opened)}, "
            "which changes the running server",
            "take it out of gate.allow",
        )
    if house.around.has_metrics:
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
    outside_the_scope,
    outside_the_share,
    _grants,
    _readouts,
    _unread,
    _server,
    _errors,
)
