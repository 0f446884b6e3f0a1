"""The cases.yaml beside a policy: closed models, and what must hold between the two files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from pilothouse.policy.expression import AtFpr, leaves, parse_condition
from pilothouse.policy.loader import raise_problems, read_model
from pilothouse.policy.schema import KebabName, Policy, SignalName
from pilothouse.types import ActionName, Phase, Result, Scope
from pilothouse.validation_errors import Location, Source, closest, problem_at

CASES_FILE = "cases.yaml"

Value = Annotated[float, Field(ge=0, le=1)]
Values = dict[SignalName, Value | None]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StandIn(_Closed):
    """A readout as far as the cases need it: where it looks, and the value at any `at fpr`."""

    scope: Scope
    threshold: Value | None = None


class Given(_Closed):
    """What is scored: after the prompt, after each output token, at the end. null: not scored."""

    prompt: Values = {}
    output: tuple[Values, ...] = ()
    final: Values = {}


class Expect(_Closed):
    """The rule that decides (null: none), its action, and what it counts as."""

    rule: KebabName | None
    action: ActionName | None = None
    result: Result
    at_token: int | None = None


class Case(_Closed):
    """One request. `enforced` overrides the policy's mode."""

    name: str = Field(min_length=1)
    enforced: bool | None = None
    given: Given
    expect: Expect


class CaseFile(_Closed):
    """A whole cases.yaml."""

    signals: dict[SignalName, StandIn] = {}
    cases: tuple[Case, ...] = Field(min_length=1)
    _source: Source = PrivateAttr(default_factory=Source)

    @property
    def source(self) -> Source:
        """The file it was read from."""
        return self._source


def load_cases(path: Path, policy: Policy) -> CaseFile:
    """Load the cases of a policy.

    Raises:
        PolicyError: not a usable case file for this policy; `file:line` of each error.
    """
    cases, source = read_model(CaseFile, path)
    cases._source = source
    raise_problems(problem_at(source, at, text) for at, text in _faults(cases, policy))
    return cases


def _faults(cases: CaseFile, policy: Policy) -> Iterator[tuple[Location, str]]:
    signals = policy.spec.signals
    at: Location
    for name in cases.signals:
        at = ("signals", name)
        if name not in signals:
            yield at, f"the policy has no signal `{name}`; {closest(name, signals)}"
        elif signals[name].ad_hoc:
            yield at, f"`{name}` is ad hoc and needs no stand-in: remove it"
    for name in sorted(set(signals) - set(cases.signals)):
        if not signals[name].ad_hoc:
            yield ("signals",), f"`{name}` has no stand-in: add `{name}: {{scope: prompt}}`"
    yield from _threshold_faults(cases, policy)
    yield from _shared_faults(cases, policy)
    rules = {rule.id: rule for rule in policy.spec.rules}
    for index, case in enumerate(cases.cases):
        if case.expect.rule is not None and case.expect.rule not in rules:
            text = f"the policy has no rule `{case.expect.rule}`"
            at = ("cases", index, "expect", "rule")
            yield at, f"{text}; {closest(case.expect.rule, rules)}"
        yield from _given_faults(case.given, ("cases", index, "given"), cases, policy)


def _threshold_faults(cases: CaseFile, policy: Policy) -> Iterator[tuple[Location, str]]:
    used = {
        leaf.signal
        for rule in policy.spec.rules
        for leaf in leaves(parse_condition(rule.when).root)
        if isinstance(leaf, AtFpr)
    }
    for name, stand_in in cases.signals.items():
        if name in used and stand_in.threshold is None:
            yield ("signals", name), "a rule says `at fpr`: add `threshold: 0.5` for it"
        if name not in used and stand_in.threshold is not None:
            text = "has no effect, no rule says `at fpr` of it: remove it"
            yield ("signals", name, "threshold"), text


def _shared_faults(cases: CaseFile, policy: Policy) -> Iterator[tuple[Location, str]]:
    """Find signals of one readout, which are one number, of which different things are said."""
    first_of: dict[tuple[str, str | None], str] = {}
    for name, ref in policy.spec.signals.items():
        if ref.ad_hoc:
            continue
        first = first_of.setdefault((ref.probe, ref.readout), name)
        if first == name:
            continue
        text = f"is the same readout as `{first}`: say the same of both, or use one signal"
        if cases.signals.get(name) != cases.signals.get(first):
            yield ("signals", name), text
        for index, case in enumerate(cases.cases):
            given = case.given
            for values in (given.prompt, *given.output, given.final):
                if values.get(name) != values.get(first):
                    yield ("cases", index, "given"), f"`{name}` {text}"
                    break


def _given_faults(
    given: Given, at: Location, cases: CaseFile, policy: Policy
) -> Iterator[tuple[Location, str]]:
    steps: list[tuple[Location, Phase, Values]] = [((*at, "prompt"), "prompt", given.prompt)]
    steps += [
        ((*at, "output", index), "output", values) for index, values in enumerate(given.output)
    ]
    for place, phase, values in [*steps, ((*at, "final"), "final", given.final)]:
        for name in values:
            signal = policy.spec.signals.get(name)
            stand_in = cases.signals.get(name)
            scope = signal.over if signal and signal.over else stand_in.scope if stand_in else None
            if signal is None:
                text = f"the policy has no signal `{name}`; {closest(name, policy.spec.signals)}"
                yield (*place, name), text
            elif scope is not None and (scope == "prompt") != (phase == "prompt"):
                when = "with the prompt" if scope == "prompt" else "once there is output"
                yield (*place, name), f"`{name}` covers the {scope} and is scored {when}: move it"
