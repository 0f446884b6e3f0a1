"""All policies of a revision, compiled: signals in columns, rules in rows, one call per phase.

Many conditions are evaluated over a batch in a fixed handful of numpy calls. Each comparison
becomes `value >= bound` (a strict `> t` is `>= the next float after t`), true or false or, at NaN,
neither: Kleene's three values, kept as the two masks `true` and `false`. `not` swaps the masks and
is pushed to the comparisons; what is left alternates between `or` and `and`, one `reduceat` a level
and mask, whatever the number of conditions.

B requests, W words of 64 requests, K signals (columns of the values), A distinct comparisons, L
places where one is used, R conditions or rules of a phase.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pilothouse.errors import PolicyError
from pilothouse.policy.check import policy_problems
from pilothouse.policy.expression import (
    And,
    AtFpr,
    Comparison,
    Node,
    Not,
    Or,
    leaves,
    parse_condition,
)
from pilothouse.policy.loader import raise_problems, repeated_names
from pilothouse.policy.resolve import Artefacts, Resolved, resolve_policy
from pilothouse.policy.schema import Action, Block, Policy, Respond, Rule
from pilothouse.record import Decision
from pilothouse.types import ActionName, BoolArray, Mode, OnError, Phase, Result, SignalSpec

Gate = Literal["or", "and"]


@dataclass(frozen=True, slots=True)
class _Literal:
    column: int
    bound: float
    positive: bool


@dataclass(frozen=True, slots=True)
class _Branch:
    gate: Gate
    parts: tuple[_Tree, ...]


_Tree = _Literal | _Branch


class VectorizedRules:
    """A compiled list of conditions.

    Args:
        roots: one tree per condition, every `at fpr` already resolved to a comparison.
        columns: the column of each signal name, one mapping per condition.
        width: K, the number of columns of the values.
    """

    def __init__(
        self, roots: Sequence[Node], columns: Sequence[Mapping[str, int]], width: int
    ) -> None:
        self.width = width
        self.count = len(roots)
        trees = [
            _or_rooted(_normal(root, names, False))
            for root, names in zip(roots, columns, strict=True)
        ]
        depth = max((_depth(tree) for tree in trees), default=0)
        self._levels, literals = _flattened(trees, depth)
        atoms = sorted({(each.column, each.bound) for each in literals})
        place = {atom: index for index, atom in enumerate(atoms)}
        self._columns_A = np.array([column for column, _ in atoms], dtype=np.intp)
        self._bounds_A1 = np.array([bound for _, bound in atoms], dtype=np.float64)[:, None]
        held_L = np.array([place[each.column, each.bound] for each in literals], dtype=np.intp)
        flipped_L = np.array([not each.positive for each in literals], dtype=np.bool_)
        self._true_L = np.where(flipped_L, held_L + len(atoms), held_L)
        self._false_L = np.where(flipped_L, held_L, held_L + len(atoms))

    def __call__(self, values_BK: NDArray[np.float64]) -> tuple[BoolArray, BoolArray]:
        """Tell where each condition is certainly true and certainly false; both false at NaN.

        Args:
            values_BK: float64, calibrated signals in [0, 1], NaN where nothing is scored yet.

        Returns:
            true_BR, false_BR: bool; a place that is neither is undecided.

        Raises:
            ValueError: the values have another number of columns than the signals.
        """
        if values_BK.ndim != 2 or values_BK.shape[1] != self.width:
            raise ValueError(f"got values of shape {values_BK.shape}, want [B, {self.width}]")
        if self.count == 0:
            nothing_BR = np.zeros((values_BK.shape[0], 0), dtype=np.bool_)
            return nothing_BR, nothing_BR
        values_AB = values_BK.T[self._columns_A]
        masks_2AB = np.concatenate((values_AB >= self._bounds_A1, values_AB < self._bounds_A1))
        words_2AW = _packed(masks_2AB)
        true_LW, false_LW = words_2AW[self._true_L], words_2AW[self._false_L]
        for gate, starts in self._levels:
            some, every = np.bitwise_or.reduceat, np.bitwise_and.reduceat
            holds, fails = (some, every) if gate == "or" else (every, some)
            true_LW, false_LW = holds(true_LW, starts, axis=0), fails(false_LW, starts, axis=0)
        return _unpacked(true_LW, len(values_BK)), _unpacked(false_LW, len(values_BK))


def _packed(masks_LB: BoolArray) -> NDArray[np.uint64]:
    """Pack 64 requests into a word: `reduceat` over bools is some sixty times slower."""
    rows, requests = masks_LB.shape
    bytes_LW = np.zeros((rows, -(-requests // 64) * 8), dtype=np.uint8)
    bytes_LW[:, : -(-requests // 8)] = np.packbits(masks_LB, axis=1)
    return bytes_LW.view(np.uint64)


def _unpacked(words_RW: NDArray[np.uint64], requests: int) -> BoolArray:
    bits_RB = np.unpackbits(words_RW.view(np.uint8), axis=1, count=requests)
    return np.ascontiguousarray(bits_RB.view(np.bool_).T)


def _normal(node: Node, columns: Mapping[str, int], negated: bool) -> _Tree:
    """Push negation to the comparisons, and make nested gates of one kind one."""
    match node:
        case Comparison():
            return _literal(node, columns, negated)
        case Not():
            return _normal(node.operand, columns, not negated)
        case And() | Or():
            gate: Gate = "or" if isinstance(node, Or) != negated else "and"
            parts: list[_Tree] = []
            for part in node.parts:
                tree = _normal(part, columns, negated)
                same = isinstance(tree, _Branch) and tree.gate == gate
                parts.extend(tree.parts if same and isinstance(tree, _Branch) else (tree,))
            return _Branch(gate, tuple(parts))
        case AtFpr():
            raise TypeError(f"`{node.signal} at fpr {node.fpr:g}` was not resolved to a bound")


def _literal(node: Comparison, columns: Mapping[str, int], negated: bool) -> _Literal:
    bound = math.nextafter(node.value, math.inf) if node.order in (">", "<=") else node.value
    return _Literal(columns[node.signal], bound, (node.order in (">=", ">")) != negated)


def _or_rooted(tree: _Tree) -> _Branch:
    if isinstance(tree, _Branch) and tree.gate == "or":
        return tree
    return _Branch("or", (tree,))


def _depth(tree: _Tree) -> int:
    return 0 if isinstance(tree, _Literal) else 1 + max(_depth(part) for part in tree.parts)


def _flattened(
    trees: Sequence[_Tree], depth: int
) -> tuple[list[tuple[Gate, NDArray[np.intp]]], list[_Literal]]:
    """Return the starts of each gate's parts, deepest level first, and the literals in their order.

    Trees shallower than `depth` are filled up with gates of one part, which change nothing.
    """
    levels: list[tuple[Gate, NDArray[np.intp]]] = []
    nodes = list(trees)
    for level in range(depth):
        gate: Gate = "or" if level % 2 == 0 else "and"
        groups = [
            node.parts if isinstance(node, _Branch) and node.gate == gate else (node,)
            for node in nodes
        ]
        sizes = [len(group) for group in groups]
        if max(sizes) > 1:
            starts = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.intp)
            levels.insert(0, (gate, starts))
        nodes = [part for group in groups for part in group]
    return levels, [node for node in nodes if isinstance(node, _Literal)]


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
