"""A condition as a tree: comparisons of signals with numbers under not, and, or."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Order = Literal[">=", ">", "<=", "<"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`signal order value`."""

    signal: str
    order: Order
    value: float


@dataclass(frozen=True, slots=True)
class AtFpr:
    """The signal is at or above its threshold for a target false positive rate."""

    signal: str
    fpr: float


@dataclass(frozen=True, slots=True)
class Not:
    """True where the operand is false; undecided where it is undecided."""

    operand: Node


@dataclass(frozen=True, slots=True)
class And:
    """All parts hold."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Some part holds."""

    parts: tuple[Node, ...]


Node = Comparison | AtFpr | Not | And | Or


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed `when`: it fires when `root` has held for `streak_tokens` scored tokens in a row."""

    text: str
    root: Node
    streak_tokens: int | None
    """N of `for N tokens`; None when not said, which acts as 1."""


def leaves(node: Node) -> Iterator[Comparison | AtFpr]:
    """The comparisons of a tree, left to right."""
    if isinstance(node, Comparison | AtFpr):
        yield node
        return
    for part in (node.operand,) if isinstance(node, Not) else node.parts:
        yield from leaves(part)
