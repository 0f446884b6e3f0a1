"""A head says what is read of a token at each layer, and what becomes of a run of such reads.

At every tapped layer a token gives R numbers (`TapReads`), which the graph computes and which are
added over the layers: the token's reads. Without pooling R is 1, and the one number is the token's
logit. With pooling a run of reads becomes one number, and a token's logit is that number so far.

Before rows read a token it may be normalised, and go through a hidden layer. A normaliser is a
number of the token times a row that is read of it, for centring a row centres what it reads:
<w, x - mean(x)> = <w - mean(w), x>.

Shapes: L layers, T tokens of one run, D width of the site, W width of the hidden layer, X what rows
read (W where there is a hidden layer, else D), R reads of a token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pilothouse.errors import ArtefactError, ConfigError
from pilothouse.head import TRAITS, Head, HeadTraits, allow_head
from pilothouse.probes.heads.pooling import Floats, Pooling
from pilothouse.types import Activation, Normaliser

Tensors = Mapping[str, NDArray[np.float32]]
SHORTEST = 1e-30
"""A token without length counts as one of this."""


class HiddenLayer(NamedTuple):
    """act(f W x + b) of a token."""

    weights_WD: NDArray[np.float32]
    bias_W: NDArray[np.float32]
    activation: Activation


@dataclass(frozen=True, slots=True, eq=False)
class TapReads:
    """What is read of a token x at one layer, float32: rows of x, or of its hidden layer.

    With f the normaliser's factor of the token: f <row, x>, or <row, act(f W x + b)>.
    """

    rows_RX: NDArray[np.float32]
    normaliser: Normaliser | None = None
    hidden: HiddenLayer | None = None


class ProbeHead(ABC):
    """A kind of head; an object of it is of one probe's manifest, and keeps no numbers.

    A kind has to have `rows`. One that pools has `pooling` too.
    """

    def __init__(self, head: Head) -> None:
        """Make the head of what a manifest says."""
        self.head = head

    @abstractmethod
    def rows(self, tensors: Tensors) -> NDArray[np.floating]:
        """Return rows_LRX of checked tensors."""

    def hidden(self, tensors: Tensors) -> tuple[HiddenLayer, ...] | None:
        """Return the hidden layer before the rows, at each layer; None without one."""
        if self.head.hidden_width is None:
            return None
        layers = zip(tensors["hidden_weights"], tensors["hidden_bias"], strict=True)
        return tuple(HiddenLayer(weights_WD, bias_W, "relu") for weights_WD, bias_W in layers)

    def reads(self, tensors: Tensors) -> tuple[TapReads, ...]:
        """Return what is read at each layer, of checked tensors.

        Raises:
            ArtefactError: what the head makes of its tensors is no finite number in float32.
        """
        normaliser = self.head.normaliser
        rows_LRX, hidden = self.rows(tensors), self.hidden(tensors)
        taps = []
        for layer, rows_RX in enumerate(rows_LRX):
            if hidden is None:
                taps.append(TapReads(_centred(rows_RX, normaliser), normaliser))
                continue
            weights_WD, bias_W, activation = hidden[layer]
            centred = HiddenLayer(_centred(weights_WD, normaliser), _narrow(bias_W), activation)
            taps.append(TapReads(_narrow(rows_RX), normaliser, centred))
        return tuple(taps)

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
        _read(tap, states_TD.astype(np.float64))
        for tap, states_TD in zip(taps, states_LTD, strict=True)
    ]
    total_TR: Floats = np.sum(reads_TR, axis=0)
    return total_TR


def _read(tap: TapReads, states_TD: Floats) -> Floats:
    factor_T1 = _factor(states_TD, tap.normaliser)
    if tap.hidden is None:
        reads_TR: Floats = factor_T1 * (states_TD @ tap.rows_RX.T.astype(np.float64))
        return reads_TR
    weights_WD, bias_W, activation = tap.hidden
    hidden_TW = factor_T1 * (states_TD @ weights_WD.T.astype(np.float64)) + bias_W
    hidden_TW = np.maximum(hidden_TW, 0.0) if activation == "relu" else hidden_TW**2
    through_TR: Floats = hidden_TW @ tap.rows_RX.T.astype(np.float64)
    return through_TR


def _factor(states_TD: Floats, normaliser: Normaliser | None) -> Floats:
    """Return by what a normaliser multiplies each token."""
    if normaliser is None:
        return np.ones((len(states_TD), 1))
    if normaliser == "layer_norm":
        states_TD = states_TD - states_TD.mean(axis=1, keepdims=True)
    length_T1 = np.linalg.norm(states_TD, axis=1, keepdims=True)
    factor_T1: Floats = np.sqrt(states_TD.shape[1]) / np.maximum(length_T1, SHORTEST)
    return factor_T1


def _centred(rows_RD: NDArray[np.floating], normaliser: Normaliser | None) -> NDArray[np.float32]:
    """Return rows that read a token as the normaliser's rows read it centred."""
    if normaliser == "layer_norm":
        wide_RD = rows_RD.astype(np.float64)
        rows_RD = wide_RD - wide_RD.mean(axis=1, keepdims=True)
    return _narrow(rows_RD)


def _narrow(numbers: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return numbers in float32."""
    with np.errstate(over="ignore"):
        narrow = numbers.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise ArtefactError(
            where="probe head",
            got="rows that are no finite numbers in float32",
            want="finite ones",
            fix="make the probe again with smaller weights",
        )
    return narrow
