"""Checks of a well-formed policy: every field has an effect, and every rule can fire."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

from pilothouse.aggregate import parameter_faults
from pilothouse.policy.endpoint_names import ENDPOINTS
from pilothouse.policy.expression import (
    KEYWORDS,
    Condition,
    ExpressionError,
    leaves,
    parse_condition,
)
from pilothouse.policy.schema import (
    PARAMETER_FIELDS,
    AggregateRef,
    Block,
    Policy,
    Respond,
    Rule,
    SignalRef,
    Steer,
)
from pilothouse.types import Phase, Scope
from pilothouse.validation_errors import Location, Problem, closest, problem_at

Fault = tuple[Location, str]


def policy_problems(policy: Policy) -> list[Problem]:
    """Return everything wrong with a policy that can be known without the probes it names."""
    return [
        problem_at(policy.source, location, text)
        for check in _CHECKS
        for location, text in check(policy)
    ]


def scope_fault(name: str, scope: Scope, phase: Phase) -> str | None:
    """Say why a signal can never have a value in a phase; None when it can."""
    if phase == "prompt" and scope != "prompt":
        return (
            f"signal `{name}` covers the {scope} and has no value in the prompt phase: use it in "
            f"an output or final rule, or a readout over the prompt"
        )
    return None


def condition_of(rule: Rule) -> Condition | None:
    """Parse a `when`; None where it cannot be read, which is reported on its own."""
    try:
        return parse_condition(rule.when)
    except ExpressionError:
        return None


def _spec(policy: Policy) -> Iterator[Fault]:
    spec = policy.spec
    ends = any(isinstance(rule.then, Block | Respond) for rule in spec.rules)
    if spec.on_error == "closed" and not ends:
        text = "`closed` has no effect: no rule here blocks or responds; remove it"
        yield ("spec", "on_error"), text
    if spec.mode == "shadow" and spec.rollout_percent != 100:
        text = "has no effect in shadow: remove it, or use `mode: enforce`"
        yield ("spec", "rollout_percent"), text
    if spec.score_answers:
        at_prompt = any(
            isinstance(rule.then, Block | Respond) and rule.phase == "prompt" for rule in spec.rules
        )
        if not at_prompt:
            text = "has no effect: no rule of `phase: prompt` here blocks or responds; remove it"
            yield ("spec", "score_answers"), text
        elif spec.mode == "shadow":
            yield ("spec", "score_answers"), "has no effect in shadow: use `mode: enforce`"
    for index, pattern in enumerate(spec.match.endpoints):
        if not any(fnmatchcase(endpoint, pattern) for endpoint in ENDPOINTS):
            text = f"got `{pattern}`, which matches no endpoint: {closest(pattern, ENDPOINTS)}"
            yield ("spec", "match", "endpoints", index), text


def _signals(policy: Policy) -> Iterator[Fault]:
    parsed = [condition_of(rule) for rule in policy.spec.rules]
    used = {leaf.signal for each in parsed if each for leaf in leaves(each.root)}
    for name, signal in policy.spec.signals.items():
        at: Location = ("spec", "signals", name)
        if name in KEYWORDS:
            yield at, f"`{name}` is a word of conditions: give the signal another name"
        elif name not in used and all(parsed) and used <= policy.spec.signals.keys():
            yield at, f"signal `{name}` is used by no rule: remove it, or use it in a `when`"
        if signal.ad_hoc:
            yield from _ad_hoc(policy, name, signal)


def _ad_hoc(policy: Policy, name: str, signal: SignalRef) -> Iterator[Fault]:
    at: Location = ("spec", "signals", name)
    if signal.readout is not None:
        text = "got both `readout` and `over` or `aggregate`: a readout has its own, keep one"
        yield (*at, "readout"), text
    if signal.over is None:
        yield at, "got `aggregate` alone: add `over: prompt`, `output` or `answer`"
    if signal.aggregate is None:
        yield at, "got `over` alone: add `aggregate`, as in `aggregate: {kind: max}`"
    else:
        yield from _aggregate(signal.aggregate, (*at, "aggregate"))
    if policy.spec.mode == "enforce":
        text = "is ad hoc, not calibrated and only for shadow: use `mode: shadow`, or a readout"
        yield at, f"signal `{name}` {text}"


def _aggregate(aggregate: AggregateRef, at: Location) -> Iterator[Fault]:
    if aggregate.kind is None and aggregate.ema_half_life_tokens is None:
        yield at, "got no kind: add `kind: max`, `mean` or `last`, or `ema_half_life_tokens`"
        return
    for each in parameter_faults(aggregate.spec):
        field = PARAMETER_FIELDS[each.parameter]
        fix = each.fix.replace(each.parameter, field)
        yield (*at, field), f"got {each.got}, want {each.want}; {fix}"


def _rules(policy: Policy) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for index, rule in enumerate(policy.spec.rules):
        at: Location = ("spec", "rules", index)
        first = seen.setdefault(rule.id, index)
        if first != index:
            text = f"`{rule.id}` is the id of rules[{first}] too: ids name metrics, take another"
            yield (*at, "id"), text
        yield from _condition(policy, rule, (*at, "when"))
        yield from _action(rule, (*at, "then"))
        yield from _leak(rule, (*at, "leak_tokens"))


def _condition(policy: Policy, rule: Rule, at: Location) -> Iterator[Fault]:
    try:
        condition = parse_condition(rule.when)
    except ExpressionError as error:
        yield at, str(error)
        return
    for name in dict.fromkeys(leaf.signal for leaf in leaves(condition.root)):
        signal = policy.spec.signals.get(name)
        if signal is None:
            known = closest(name, policy.spec.signals)
            yield at, f"got the signal `{name}`, which is not under `signals`; {known}"
        elif signal.over is not None and (why := scope_fault(name, signal.over, rule.phase)):
            yield at, why
    if condition.streak_tokens is not None and rule.phase != "output":
        text = f"has no effect in the {rule.phase} phase: remove it, or use `phase: output`"
        yield at, f"`for {condition.streak_tokens} tokens` {text}"


def _action(rule: Rule, at: Location) -> Iterator[Fault]:
    action = rule.then
    if isinstance(action, Block) and action.as_ == "error" and rule.phase != "prompt":
        text = f"`error` is for the prompt phase, here it is {rule.phase}: use `as: refusal`"
        yield (*at, "as"), text
    if not isinstance(action, Steer):
        return
    if rule.phase == "final":
        text = "`steer` has no effect in the final phase, no token follows: use `phase: output`"
        yield (*at, "action"), text
    if (action.vector is None) == (action.sae is None):
        got = "neither" if action.vector is None else "both"
        yield at, f"got {got} of `vector` and `sae`: name what to steer with, one of them"
        return
    if action.sae is not None and action.feature is None:
        yield at, "got `sae` alone: add `feature`, a number, a list of numbers or a label"
    for name in ("feature", "above"):
        if action.sae is None and getattr(action, name) is not None:
            yield (*at, name), "has no effect on a vector: remove it, or name an `sae`"
    if action.scale == 0 and action.sae is None:
        yield (*at, "scale"), "a scale of 0 has no effect: use another, or `action: log`"
    if action.layers is not None and len(set(action.layers)) != len(action.layers):
        yield (*at, "layers"), "a layer is listed twice: list each once"


def _leak(rule: Rule, at: Location) -> Iterator[Fault]:
    if rule.leak_tokens is None:
        return
    condition = condition_of(rule)
    streak = (condition.streak_tokens or 1) if condition else None
    if rule.phase != "output" or not isinstance(rule.then, Block | Respond):
        yield at, "has no effect: it is for output rules that block or respond; remove it"
    elif streak is not None and rule.leak_tokens >= streak:
        text = "the token that makes the rule fire is always held back"
        yield at, f"got {rule.leak_tokens}, want less than the {streak} of the run: {text}"


_CHECKS: tuple[Callable[[Policy], Iterator[Fault]], ...] = (_spec, _signals, _rules)
