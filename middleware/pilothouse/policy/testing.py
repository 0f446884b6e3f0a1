"""Runs the cases beside a policy: signal values, and the rule, action and result that must follow.

A case runs one request through the compiled rules, without a model. The readouts are stand-ins,
so that cases hold whatever thresholds a probe is given later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pilothouse.policy.cases import Case, CaseFile, Given, StandIn
from pilothouse.policy.decide import advance_streaks, outcome_result, strongest
from pilothouse.policy.expression import AtFpr, leaves, parse_condition
from pilothouse.policy.rulebook import CompiledRule, Rulebook
from pilothouse.policy.schema import Policy, SignalRef
from pilothouse.types import Aggregate, Mode, Phase, Result, SignalSpec
from pilothouse.validation_errors import Problem, problem_at

STAND_IN_READOUT = "default"
_ENDING = ("blocked", "responded", "error_blocked")


@dataclass(frozen=True, slots=True)
class Conclusion:
    """How a request ended: the deciding rule, if any, its result and its output token."""

    rule: CompiledRule | None
    result: Result
    at_token: int | None


def run_cases(policy: Policy, cases: CaseFile) -> list[Problem]:
    """Return the cases that do not come out as expected, each with its line, got and wanted."""
    rulebook = stand_in_rulebook(policy, cases)
    problems: list[Problem] = []
    for index, case in enumerate(cases.cases):
        got = conclude(rulebook, case)
        want = case.expect
        shown = _shown(got.rule, got.result, got.at_token)
        agrees = (got.rule.rule if got.rule else None) == want.rule
        agrees &= (got.rule.kind if got.rule else None) == want.action
        agrees &= got.result == want.result
        agrees &= "at_token" not in want.model_fields_set or got.at_token == want.at_token
        if not agrees:
            text = f"case {case.name!r}: got {shown}, want {want.model_dump(exclude_unset=True)}"
            problems.append(problem_at(cases.source, ("cases", index), text))
    return problems


def stand_in_rulebook(policy: Policy, cases: CaseFile) -> Rulebook:
    """Compile a policy over the stand-ins of a case file."""
    rates: dict[str, set[float]] = {}
    for rule in policy.spec.rules:
        for leaf in leaves(parse_condition(rule.when).root):
            if isinstance(leaf, AtFpr):
                rates.setdefault(leaf.signal, set()).add(leaf.fpr)
    specs: dict[str, SignalSpec] = {}
    # An ad-hoc signal needs its probe to be there, and must not take a readout's place.
    named = sorted(policy.spec.signals.items(), key=lambda each: each[1].ad_hoc)
    for name, ref in named:
        stand_in = cases.signals.get(name, StandIn(scope=ref.over or "prompt"))
        readout = ref.readout or STAND_IN_READOUT
        known = specs.get(f"{ref.probe}/{readout}")
        if known is not None and ref.ad_hoc:
            continue
        thresholds = dict(known.thresholds) if known else {}
        if stand_in.threshold is not None:
            thresholds |= dict.fromkeys(rates.get(name, ()), stand_in.threshold)
        specs[f"{ref.probe}/{readout}"] = SignalSpec(
            f"{ref.probe}/{readout}",
            ref.probe,
            stand_in.scope,
            Aggregate("last"),
            1.0,
            0.0,
            calibrated=True,
            thresholds=tuple(sorted(thresholds.items())),
        )
    defaults = {ref.probe: STAND_IN_READOUT for ref in policy.spec.signals.values()}
    return Rulebook([policy], specs, default_readouts=defaults)


def conclude(rulebook: Rulebook, case: Case) -> Conclusion:
    """Run one request through the only policy of a rulebook."""
    policy = rulebook.policies[0]
    enforced = policy.spec.mode == "enforce" if case.enforced is None else case.enforced
    mode: Mode = "enforce" if enforced else "shadow"
    columns = {
        name: rulebook.columns[key] for name, key in _keys(rulebook, policy.spec.signals).items()
    }
    values_1K = np.full((1, len(rulebook.signals)), math.nan)
    streaks_1R = np.zeros((1, len(rulebook.rules_of("output"))), dtype=np.int64)
    conclusions: dict[int, Conclusion] = {}
    for phase, values, at_token in _steps(case.given):
        for name, value in values.items():
            values_1K[0, columns[name]] = math.nan if value is None else value
        fired_1R, missing_1R = rulebook.outcomes(phase, values_1K)
        if phase == "output":
            fired_1R = advance_streaks(streaks_1R, fired_1R, rulebook.streaks_of(phase))
        for r, rule in enumerate(rulebook.rules_of(phase)):
            fired, missing = bool(fired_1R[0, r]), bool(missing_1R[0, r])
            result = outcome_result(rule.kind, mode, fired, missing, rule.on_error)
            if _outranks(result, conclusions.get(rule.index)):
                conclusions[rule.index] = Conclusion(rule, result, at_token)
        ended = [each for each in conclusions.values() if each.result in _ENDING]
        if ended:
            return _deciding(ended)
    return _deciding(list(conclusions.values()))


def _steps(given: Given) -> Iterator[tuple[Phase, Mapping[str, float | None], int | None]]:
    yield "prompt", given.prompt, None
    for index, values in enumerate(given.output):
        yield "output", values, index
    yield "final", given.final, None


def _outranks(result: Result, before: Conclusion | None) -> bool:
    if result == "allowed":
        return False
    return before is None or (before.result == "bypassed" and result != "bypassed")


def _deciding(conclusions: list[Conclusion]) -> Conclusion:
    acted = [each for each in conclusions if each.result != "bypassed"]
    by_index = {each.rule.index: each for each in acted or conclusions if each.rule}
    rule = strongest(each.rule for each in by_index.values() if each.rule)
    return by_index[rule.index] if rule else Conclusion(None, "allowed", None)


def _keys(rulebook: Rulebook, signals: Mapping[str, SignalRef]) -> dict[str, str]:
    return {name: rulebook.key_of(rulebook.policies[0].name, name) for name in signals}


def _shown(rule: CompiledRule | None, result: Result, at_token: int | None) -> str:
    shown: dict[str, object] = {"rule": rule.rule if rule else None}
    if rule:
        shown["action"] = rule.kind
    shown["result"] = result
    if at_token is not None:
        shown["at_token"] = at_token
    return str(shown)
