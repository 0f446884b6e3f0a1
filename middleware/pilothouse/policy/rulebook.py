"""All policies of a revision, compiled: signals in columns, rules in rows, one call per phase.

B requests, K signals (columns of the values), R rules of a phase.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pilothouse.errors import PolicyError
from pilothouse.policy.check import policy_problems
from pilothouse.policy.expression import Node, leaves, parse_condition
from pilothouse.policy.loader import raise_problems, repeated_names
from pilothouse.policy.resolve import Artefacts, Resolved, resolve_policy
from pilothouse.policy.schema import Action, Block, Policy, Respond, Rule
from pilothouse.policy.vectorized_rules import VectorizedRules
from pilothouse.record import Decision
from pilothouse.types import ActionName, BoolArray, Mode, OnError, Phase, Result, SignalSpec

MAX_PHASE_COMPARISONS = 4096
"""Comparisons evaluated in one phase: about half a millisecond for 256 requests."""


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """One rule, ready to be carried out."""

    index: int
    """Its position in `Rulebook.rules`."""
    policy: str
    rule: str
    phase: Phase
    mode: Mode
    """The policy's mode; whether it is carried out for a request is `AppliedPolicy.enforced`."""
    action: Action
    when: str
    signals: tuple[str, ...]
    """Keys of the signals its condition reads."""
    on_error: OnError
    streak_tokens: int
    leak_tokens: int

    @property
    def kind(self) -> ActionName:
        """The name of the action."""
        return self.action.action

    @property
    def message(self) -> str | None:
        """What the client reads instead of an answer."""
        return self.action.message if isinstance(self.action, Block | Respond) else None

    @property
    def as_(self) -> str | None:
        """`error` or `refusal` for block, `message` for respond."""
        return self.action.as_ if isinstance(self.action, Block | Respond) else None

    @property
    def ends(self) -> bool:
        """Whether it ends the choice when it fires and is enforced."""
        return isinstance(self.action, Block | Respond)

    def decision(self, mode: Mode, result: Result, at_token: int | None = None) -> Decision:
        """Return what this rule decided on a choice."""
        return Decision(
            self.policy, self.rule, self.phase, mode, self.kind, result, at_token=at_token
        )


class Rulebook:
    """The compiled policies.

    Args:
        policies: as loaded; names are distinct.
        signal_specs: every readout that is loaded, by its key `probe/readout`.
        default_readouts: the readout of a probe that a policy names without one. A probe with a
            single readout needs none.
        vectors: the layers of each loaded vector; None leaves steering unchecked.
        saes: the layers of each loaded SAE, likewise.

    Raises:
        PolicyError: a probe, readout, threshold or vector that is not loaded, a signal that can
            have no value in a rule's phase, or a name used twice (file and line of each); more
            than `MAX_PHASE_COMPARISONS` comparisons in a phase.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        signal_specs: Mapping[str, SignalSpec],
        *,
        default_readouts: Mapping[str, str] | None = None,
        vectors: Mapping[str, Collection[int]] | None = None,
        saes: Mapping[str, Collection[int]] | None = None,
    ) -> None:
        self.policies = tuple(policies)
        artefacts = Artefacts(signal_specs, default_readouts or {}, vectors, saes)
        resolved = [resolve_policy(policy, artefacts) for policy in self.policies]
        raise_problems(
            problem
            for policy, result in zip(self.policies, resolved, strict=True)
            for problem in (*policy_problems(policy), *result.problems)
        )
        raise_problems(repeated_names(self.policies))
        self.signals = _union(resolved)
        self._keys = {
            (policy.name, name): spec.key
            for policy, result in zip(self.policies, resolved, strict=True)
            for name, spec in result.signals.items()
        }
        self.columns = {spec.key: column for column, spec in enumerate(self.signals)}
        self.rules = tuple(self._compiled(resolved))
        self._phases: dict[Phase, tuple[CompiledRule, ...]] = {
            phase: tuple(rule for rule in self.rules if rule.phase == phase)
            for phase in ("prompt", "output", "final")
        }
        self._vectorized = {
            phase: self._vectorize(rules, resolved) for phase, rules in self._phases.items()
        }

    def rules_of(self, phase: Phase) -> tuple[CompiledRule, ...]:
        """Return the rules of a phase, in the order of the columns that `outcomes` returns."""
        return self._phases[phase]

    def outcomes(self, phase: Phase, values_BK: NDArray[np.float64]) -> tuple[BoolArray, BoolArray]:
        """Tell which conditions hold, and which are undecided because a signal is missing.

        Args:
            phase: whose rules are evaluated.
            values_BK: float64, calibrated values in the order of `signals`; NaN: not scored yet.

        Returns:
            fired_BR, unavailable_BR: bool over `rules_of(phase)`, never both. Streaks are not
            counted here, see `advance_streaks`.
        """
        true_BR, false_BR = self._vectorized[phase](values_BK)
        return true_BR, ~(true_BR | false_BR)

    def key_of(self, policy: str, signal: str) -> str:
        """Return the key of a signal that a policy calls by its own name."""
        return self._keys[policy, signal]

    def specs_of(self, policy: str) -> dict[str, SignalSpec]:
        """Return what a policy's own names for signals stand for."""
        by_key = {spec.key: spec for spec in self.signals}
        return {name: by_key[key] for (owner, name), key in self._keys.items() if owner == policy}

    def streaks_of(self, phase: Phase) -> NDArray[np.int64]:
        """Return needed_R for `advance_streaks`: scored tokens in a row until a rule fires."""
        return np.array([rule.streak_tokens for rule in self._phases[phase]], dtype=np.int64)

    def _compiled(self, resolved: Sequence[Resolved]) -> list[CompiledRule]:
        rules: list[CompiledRule] = []
        for policy, result in zip(self.policies, resolved, strict=True):
            for rule in policy.spec.rules:
                condition = parse_condition(rule.when)
                names = dict.fromkeys(leaf.signal for leaf in leaves(condition.root))
                rules.append(
                    CompiledRule(
                        index=len(rules),
                        policy=policy.name,
                        rule=rule.id,
                        phase=rule.phase,
                        mode=policy.spec.mode,
                        action=rule.then,
                        when=rule.when,
                        signals=tuple(result.signals[name].key for name in names),
                        on_error=_on_error(policy, rule),
                        streak_tokens=condition.streak_tokens or 1,
                        leak_tokens=rule.leak_tokens or 0,
                    )
                )
        return rules

    def _vectorize(
        self, rules: Sequence[CompiledRule], resolved: Sequence[Resolved]
    ) -> VectorizedRules:
        by_name = dict(zip((policy.name for policy in self.policies), resolved, strict=True))
        roots: list[Node] = [by_name[rule.policy].roots[rule.rule] for rule in rules]
        cost = sum(1 for root in roots for _ in leaves(root))
        if cost > MAX_PHASE_COMPARISONS:
            raise PolicyError(
                f"got {cost} comparisons in the rules of one phase, want at most "
                f"{MAX_PHASE_COMPARISONS}: load fewer policies or simplify conditions"
            )
        columns = [
            {name: self.columns[spec.key] for name, spec in by_name[rule.policy].signals.items()}
            for rule in rules
        ]
        return VectorizedRules(roots, columns, len(self.signals))


def advance_streaks(
    streaks_BR: NDArray[np.int64], raw_BR: BoolArray, needed_R: NDArray[np.int64]
) -> BoolArray:
    """Count one more scored token into the streaks, in place, and say which rules fire.

    Args:
        streaks_BR: int, tokens in a row for which each condition has held; updated in place.
        raw_BR: bool, whether it holds at this token (`Rulebook.outcomes`).
        needed_R: int, the N of `for N tokens` (`Rulebook.streaks_of`).

    Returns:
        fired_BR: bool, true from the token that completes a run until the run breaks.
    """
    streaks_BR += 1
    streaks_BR *= raw_BR
    return streaks_BR >= needed_R


def running_streaks(streaks_R: NDArray[np.int64], raw_SR: BoolArray) -> NDArray[np.int64]:
    """Return the streaks of one request after each of several tokens, as `advance_streaks` does.

    Args:
        streaks_R: before the first of them.
        raw_SR: bool, whether each condition holds at each token.
    """
    count_S1 = np.arange(1, len(raw_SR) + 1)[:, None]
    broken_SR = np.maximum.accumulate(np.where(raw_SR, 0, count_S1), axis=0)
    counted_SR: NDArray[np.int64] = count_S1 - broken_SR + np.where(broken_SR == 0, streaks_R, 0)
    return counted_SR


def _union(resolved: Sequence[Resolved]) -> tuple[SignalSpec, ...]:
    specs: dict[str, SignalSpec] = {}
    for result in resolved:
        for spec in result.signals.values():
            specs.setdefault(spec.key, spec)
    return tuple(specs.values())


def _on_error(policy: Policy, rule: Rule) -> OnError:
    """Return what the policy says for rules that end a choice, else block closed; others open."""
    if not isinstance(rule.then, Block | Respond):
        return "open"
    return policy.spec.on_error or ("closed" if isinstance(rule.then, Block) else "open")
