"""Types that every room shares. Imports nothing of the package and nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NewType, get_args

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.floating[Any]]
    IntArray = npt.NDArray[np.integer[Any]]
    BoolArray = npt.NDArray[np.bool_]
else:
    FloatArray = IntArray = BoolArray = Any

LayerIndex = NewType("LayerIndex", int)
DecisionId = NewType("DecisionId", str)

Site = Literal[
    "embed",
    "resid_pre",
    "attn_heads",
    "attn_out",
    "resid_mid",
    "mlp_neurons",
    "mlp_out",
    "resid_post",
    "logits",
]
"""In the order in which a token passes them in a layer."""

PROJECTION_SITES: frozenset[Site] = frozenset({"attn_heads", "mlp_neurons"})
"""Inputs of an output projection: of a width of their own, and split over tensor-parallel ranks."""

Clause = Literal["prompt", "output", "all"]
Sites = Literal["own", "writers"]
"""An artefact's own site, or every place where something is added to the residual stream."""

Unit = Literal["raw", "unit", "residual", "token", "max_act"]
"""`max_act`, of SAE features alone: shares of the feature's largest code."""
Operator = Literal[
    "add",
    "add_below",
    "ablate",
    "reflect",
    "set",
    "floor",
    "cap",
    "affine",
    "rotate",
    "rotate_adaptive",
    "slerp",
    "apply",
    "replace",
]
"""What is done along a direction, in a plane or by a map; its file in `edits.ops` says how.

Listed here so that a policy can be checked where nothing of `edits` is loaded. A test compares the
list with what is registered.
"""

FeatureOp = Literal["set", "scale", "ablate", "add", "floor", "cap", "steer"]
"""What becomes of the code of an SAE's feature; `edits.sae` says what exactly."""

Reserved = Operator | Literal["gate", "restore_norm", "token_unit", "feature"]
"""What a tap can have tables for: operators and what goes with them."""

ScoreDetail = Literal["none", "summary", "tokens"]

Scope = Literal["prompt", "output", "answer"]
"""Token positions a readout covers. `answer` is the last prompt token and every output token."""

AggregateKind = Literal[
    "max",
    "mean",
    "last",
    "ema_max",
    "ema_last",
    "top_k_mean",
    "sliding_max",
    "sliding_mean",
    "softmax_mean",
    "log_sum_exp",
    "noisy_or",
    "cusum_max",
    "cusum_last",
    "k_of_n",
]
"""The kinds of this package; `pilothouse.aggregate` says what holds for each."""

HeadKind = Literal[
    "linear",
    "mlp",
    "attention",
    "efficient_probing",
    "multimax",
    "rolling_attention",
    "mahalanobis",
]
"""The kinds of this package; `pilothouse.head` says what holds for each."""

Normaliser = Literal["layer_norm", "rms"]
"""What a head divides a token by before it reads it; both without a bias, a gain or an epsilon."""

Activation = Literal["relu", "square"]
"""Of a head's hidden layer."""

WindowOrder = Literal["sum_then_max", "max_then_sum"]
"""Of windows of several heads: the largest sum over heads, or the sum of each head's largest."""

Phase = Literal["prompt", "output", "final"]
Mode = Literal["shadow", "enforce"]
ActionName = Literal["log", "tag", "steer", "judge", "respond", "block"]
OnError = Literal["open", "closed"]
Result = Literal[
    "allowed",
    "flagged",
    "steered",
    "responded",
    "judged",
    "blocked",
    "would_steer",
    "would_respond",
    "would_judge",
    "would_block",
    "bypassed",
    "error_blocked",
]


class Tap(NamedTuple):
    """A place where programs edit or probes read."""

    layer: int
    site: Site

    @property
    def depth(self) -> tuple[int, int]:
        """A key that sorts taps into the order in which a token passes them."""
        return self.layer, get_args(Site).index(self.site)


@dataclass(frozen=True, slots=True)
class Aggregate:
    """How token logits become one number.

    Each kind has some of the parameters and no other: `pilothouse.aggregate` says which, and in
    what range.
    """

    kind: str
    half_life_tokens: float | None = None
    """After so many tokens half of a moving average is of newer ones."""
    k_tokens: int | None = None
    """How many tokens are looked for: the largest ones, or those over a level."""
    window_tokens: int | None = None
    """How many of the newest tokens are looked at together."""
    temperature: float | None = None
    """In logits: how much higher a logit is that weighs e times as much."""
    reference_logit: float | None = None
    """The mean of a harmless token."""
    drift_logits: float | None = None
    """How far above the reference a token may be without adding anything."""
    on_logit: float | None = None
    """From here on a token counts while an alarm is off."""
    off_logit: float | None = None
    """From here on a token counts while an alarm is on."""


@dataclass(frozen=True, slots=True)
class SignalSpec:
    """One streamed number per request: a probe, where it looks, how it sums up.

    `key` is unique: `probe/readout`, or `probe/~scope.kind[.parameters]` when ad hoc.
    `slope` and `offset` are the Platt calibration of the aggregated logit:
    `value = sigmoid(slope * logit + offset)`; ad-hoc signals have 1 and 0.
    `thresholds` maps a target false positive rate to the value that meets it. `head` is the kind of
    the probe's.
    """

    key: str
    probe: str
    scope: Scope
    aggregate: Aggregate
    slope: float
    offset: float
    calibrated: bool
    thresholds: tuple[tuple[float, float], ...] = ()
    head: str = "linear"
