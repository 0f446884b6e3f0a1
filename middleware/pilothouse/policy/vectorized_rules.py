"""Evaluates many conditions over a batch, in a fixed handful of numpy calls.

B requests, W words of 64 requests, K signals, A distinct comparisons, L places where one is used,
R conditions.

Each comparison becomes `value >= bound` (a strict `> t` is `>= the next float after t`), true or
false or, at NaN, neither: Kleene's three values, kept as the two masks `true` and `false`. `not`
swaps the masks and is pushed to the comparisons; what is left alternates between `or` and `and`,
one `reduceat` a level and mask, whatever the number of conditions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pilothouse.policy.expression import And, AtFpr, Comparison, Node, Not, Or
from pilothouse.types import BoolArray

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
