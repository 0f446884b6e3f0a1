"""A head says what is read of a token at each layer, and what becomes of a run of such reads.

At every tapped layer a token gives R numbers (`TapReads`), which the graph computes and which are
added over the layers: the token's reads. Without pooling R is 1, and the one number is the token's
logit. With pooling a run of reads becomes one number, and a token's logit is that number so far.

Shapes: L layers, T tokens of one run, D width of the site, R reads of a token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pilothouse.errors import ConfigError
from pilothouse.head import TRAITS, Head, HeadTraits, allow_head
from pilothouse.probes.heads.pooling import Floats, Pooling

Tensors = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class TapReads:
    """What is read of a token at one layer: <row, h> for each row, float32 [R, D]."""

    rows_RD: NDArray[np.float32]


class ProbeHead(ABC):
    """A kind of head; an object of it is of one probe's manifest, and keeps no numbers.

    A kind has to have `reads`. One that pools has `pooling` too.
    """

    def __init__(self, head: Head) -> None:
        """Make the head of what a manifest says."""
        self.head = head

    @abstractmethod
    def reads(self, tensors: Tensors) -> tuple[TapReads, ...]:
        """Return what is read at each layer, of checked tensors."""

    def pooling(self) -> Pooling | None:
        """Return how runs of reads are pooled; None where a read is a logit."""
        return None


HEADS: dict[str, type[ProbeHead]] = {}
Kind = TypeVar("Kind", bound=type[ProbeHead])


def register_head(kind: str, traits: HeadTraits | None = None) -> Callable[[Kind], Kind]:
    """Return a decorator that adds a class under the name of its kind.

    Args:
        kind: The name that manifests use.
        traits: What other rooms know of a kind that `pilothouse.head` does not list.

    Raises:
        ConfigError: The kind is taken, or nothing says what its traits are.
    """
    if kind in HEADS:
        raise ConfigError(
            where="probe head", got=f"{kind!r} twice", want="each kind once", fix="rename one"
        )
    if traits is not None:
        allow_head(kind, traits)
    elif kind not in TRAITS:
        raise ConfigError(
            where=f"probe head {kind!r}",
            got="no traits",
            want="those of its kind",
            fix="give them to the decorator",
        )

    def add(made: Kind) -> Kind:
        HEADS[kind] = made
        return made

    return add


def make_head(head: Head) -> ProbeHead:
    """Return the head of a manifest."""
    return HEADS[head.kind](head)


def read_tokens(taps: tuple[TapReads, ...], states_LTD: NDArray[np.floating]) -> Floats:
    """Return reads_TR in float64: the reference of what the graph computes, layers added."""
    reads_TR = [
        states_TD.astype(np.float64) @ tap.rows_RD.astype(np.float64).T
        for tap, states_TD in zip(taps, states_LTD, strict=True)
    ]
    total_TR: Floats = np.sum(reads_TR, axis=0)
    return total_TR
