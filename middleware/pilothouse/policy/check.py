"""What a well-formed policy must also satisfy: every field has an effect, every rule can fire."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase

from pilothouse.policy.endpoint import ENDPOINTS
from pilothouse.policy.expression import Condition, ExpressionError, leaves, parse_condition
from pilothouse.policy.schema import Block, Policy, Respond, Rule, SignalRef, Steer
from pilothouse.policy.source import Location, Problem, problem_at
from pilothouse.types import Phase, Scope

Fault = tuple[Location, str]
_EMA = ("ema_max", "ema_last")


def policy_problems(policy: Policy) -> list[Problem]:
    """Everything wrong with a policy that can be known without the probes it names."""
    return [
        problem_at(policy.source, location, text)
        for check in _CHECKS
        for location, text in check(policy)
    ]


def scope_fault(name: str, scope: Scope, phase: Phase) -> str | None:
    """Why a signal can never have a value in a phase; None when it can."""
    if phase == "prompt" and scope != "prompt":
        return (
            f"signal `{name}` covers the {scope} and has no value in the prompt phase: use it in "
            f"an output or final rule, or a readout over the prompt"
        )
    return None


def closest(word: str, known: Iterable[str]) -> str:
    """What is known, beginning with a guess at what was meant."""
    names = sorted(known)
    guess = difflib.get_close_matches(word, names, n=1)
    meant = f"did you mean `{guess[0]}`? " if guess else ""
    return f"{meant}known here: {', '.join(names) or 'none'}"


def condition_of(rule: Rule) -> Condition | None:
    """The parsed `when`; None where it cannot be read, which is reported on its own."""
    try:
        return parse_condition(rule.when)
    except ExpressionError:
        return None


def _conditions(policy: Policy) -> Iterator[Fault]:
    for index, rule in enumerate(policy.spec.rules):
        at: Location = ("spec", "rules", index, "when")
        try:
            condition = parse_condition(rule.when)
        except ExpressionError as error:
            yield at, str(error)
            continue
        for name in dict.fromkeys(leaf.signal for leaf in leaves(condition.root)):
            signal = policy.spec.signals.get(name)
            if signal is None:
                known = closest(name, policy.spec.signals)
                yield at, f"got the signal `{name}`, which is not under `signals`; {known}"
            elif signal.over is not None and (why := scope_fault(name, signal.over, rule.phase)):
                yield at, why
        if condition.streak_tokens is not None and rule.phase != "output":
            yield at, (
                f"`for {condition.streak_tokens} tokens` has no effect in the {rule.phase} phase: "
                f"remove it, or use `phase: output`"
            )


def _signals(policy: Policy) -> Iterator[Fault]:
    parsed = [condition_of(rule) for rule in policy.spec.rules]
    used = {leaf.signal for each in parsed if each for leaf in leaves(each.root)}
    for name, signal in policy.spec.signals.items():
        at: Location = ("spec", "signals", name)
        if all(parsed) and name not in used:
            yield at, f"signal `{name}` is used by no rule: remove it, or use it in a `when`"
        if signal.ad_hoc:
            yield from _ad_hoc(policy, name, signal, at)


def _ad_hoc(policy: Policy, name: str, signal: SignalRef, at: Location) -> Iterator[Fault]:
    if signal.readout is not None:
        yield (*at, "readout"), (
            "got both `readout` and `over` or `aggregate`: a readout has its own, keep one"
        )
    if signal.over is None:
        yield at, "got `aggregate` alone: add `over: prompt`, `output` or `answer`"
    if signal.aggregate is None:
        yield at, "got `over` alone: add `aggregate`, as in `aggregate: {kind: max}`"
    else:
        kind, half_life = signal.aggregate.kind, signal.aggregate.ema_half_life_tokens
        here = (*at, "aggregate")
        if kind is None and half_life is None:
            yield here, "got no kind: add `kind: max`, `mean` or `last`, or a half-life"
        if kind in _EMA and half_life is None:
            yield here, f"`kind: {kind}` needs a half-life: add `ema_half_life_tokens: 4`"
        if kind is not None and kind not in _EMA and half_life is not None:
            yield here, f"`ema_half_life_tokens` has no effect on `kind: {kind}`: remove it"
    if policy.spec.mode == "enforce":
        yield at, (
            f"signal `{name}` is ad hoc, which is not calibrated and only for shadow: use "
            f"`mode: shadow`, or name a readout of the probe"
        )


def _rules(policy: Policy) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for index, rule in enumerate(policy.spec.rules):
        at: Location = ("spec", "rules", index)
        if rule.id in seen:
            yield (*at, "id"), (
                f"the id `{rule.id}` is that of rule {seen[rule.id]} too: ids name metrics, so "
                f"give each rule its own"
            )
        seen.setdefault(rule.id, index)
        yield from _action(rule, at)
        yield from _leak(rule, at)


def _action(rule: Rule, at: Location) -> Iterator[Fault]:
    match rule.then:
        case Block(as_="error") if rule.phase != "prompt":
            yield (*at, "then", "as"), (
                f"`as: error` is for the prompt phase; in the {rule.phase} phase the answer has "
                f"begun: use `as: refusal`"
            )
        case Steer() as steer:
            if rule.phase == "final":
                yield (*at, "then", "action"), (
                    "`steer` has no effect in the final phase, no token follows: use "
                    "`phase: output`"
                )
            if steer.scale == 0:
                yield (*at, "then", "scale"), "a scale of 0 has no effect: use another, or `log`"
            if steer.layers is not None and len(set(steer.layers)) != len(steer.layers):
                yield (*at, "then", "layers"), "a layer is listed twice: list each once"


def _leak(rule: Rule, at: Location) -> Iterator[Fault]:
    if rule.leak_tokens is None:
        return
    condition = condition_of(rule)
    streak = (condition.streak_tokens or 1) if condition else None
    here = (*at, "leak_tokens")
    if rule.phase != "output" or not isinstance(rule.then, Block | Respond):
        yield here, (
            "`leak_tokens` has no effect here: it is for output rules that block or respond, "
            "remove it"
        )
    elif streak is not None and rule.leak_tokens >= streak:
        yield here, (
            f"got {rule.leak_tokens}, want less than the {streak} of `for N tokens`: at least the "
            f"token that makes the rule fire is held back"
        )


def _spec(policy: Policy) -> Iterator[Fault]:
    spec = policy.spec
    ends = any(isinstance(rule.then, Block | Respond) for rule in spec.rules)
    if spec.on_error == "closed" and not ends:
        yield ("spec", "on_error"), (
            "`on_error: closed` has no effect: no rule here blocks or responds; remove it"
        )
    if spec.mode == "shadow" and spec.rollout_percent != 100:
        yield ("spec", "rollout_percent"), (
            "`rollout_percent` has no effect in shadow: remove it, or use `mode: enforce`"
        )
    for index, pattern in enumerate(spec.match.endpoints):
        if not any(fnmatchcase(endpoint, pattern) for endpoint in ENDPOINTS):
            yield ("spec", "match", "endpoints", index), (
                f"got `{pattern}`, which matches no endpoint: {closest(pattern, ENDPOINTS)}"
            )


_CHECKS: tuple[Callable[[Policy], Iterator[Fault]], ...] = (_spec, _signals, _rules, _conditions)
