"""A sparse autoencoder in memory, whatever file it came from.

With N the normalisation and x = N(h) - b_in, where b_in is the decoder's bias or nothing:

    z = x W_enc + b_enc       codes = activation(z)       h ~ N^-1(codes W_dec + b_dec)

relu: max(0, z). jumprelu: that where z > threshold (so are BatchTopK, Matryoshka, Feature and
Mutual Choice served: one token's codes must not hang on its batch). gated: max(0, exp(r_mag)
(z - b_enc) + b_mag) where z > 0, with b_enc the gate's bias. topk: max(0, z) of the k largest.
abstopk: z of the k largest in size. top_afa: max(0, z) of as many, the largest max(0, z) |d| first,
as bring the root of their squares' sum nearest to |N(h) - b_dec|. pursuit: of what is left of x the
largest <d, x>, taken out along d, at most k times (matching pursuit, ITDA).

Shape suffixes: D width of the site, M features, Q columns of a square, C columns of a cube.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.saes.file_guard import Stamp
from pilothouse.artifacts.saes.matrix import Floats, Matrix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pilothouse.types import Site, Tap

Form = Literal["relu", "jumprelu", "gated", "topk", "abstopk", "top_afa", "pursuit"]
Normalisation = Literal["none", "layer_norm", "constant_norm"]
"""layer_norm: (h - mean) / (std + 1e-5) with the unbiased std, undone with std and mean.
constant_norm: h sqrt(D) / |h|."""

DecoderNorms = Literal["ignored", "select", "scale"]
"""What the lengths of the decoder's rows do. select: codes are chosen by z |d|, and are z.
scale: codes are chosen by z |d| and are that, written along d / |d|."""

ALL_AT_ONCE: frozenset[Form] = frozenset({"topk", "abstopk", "top_afa", "pursuit"})
"""Whether a feature is on hangs on all others, so that it needs all of them."""


class Pursuit(NamedTuple):
    """How a matching pursuit goes and ends, beside its `k` steps."""

    is_signed: bool = False
    """It takes the largest in size, so that codes can be negative; else only what is positive."""
    residual_threshold: float = 0.0
    """It ends once what is left is shorter than this."""
    ends_on_repeat: bool = False
    """It ends with the first step that brings no feature that was off."""


NO_PURSUIT = Pursuit()


class Polynomial(NamedTuple):
    """What a decoder adds to its rows for features that are on together (PolySAE).

    With codes f: (f A * f B) S' + (f A' * f B' * f C) K', where A' and B' are the first columns.
    """

    first_MQ: Floats
    second_MQ: Floats
    square_DQ: Floats
    third_MC: Floats
    cube_DC: Floats


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Sae:
    """A loaded SAE; compared by identity, its arrays cannot be written.

    `encoder_DM` and `decoder_MD` lie in the file's mapping. `input_scale` is the constant by which
    the SAE's inputs were scaled in training; it is undone on the way out. `is_centred`: the SAE
    knows a stream without its mean over D (weights that write were centred). `max_act_M` are the
    features' largest codes, `labels` their names, where a file has them.
    """

    name: str
    model_id: str
    tap: Tap
    form: Form
    encoder_DM: Matrix
    encoder_bias_M: Floats
    decoder_MD: Matrix
    decoder_bias_D: Floats
    threshold_M: Floats | None = None
    magnitude_bias_M: Floats | None = None
    magnitude_log_M: Floats | None = None
    k: int | None = None
    pursuit: Pursuit = NO_PURSUIT
    polynomial: Polynomial | None = None
    decoder_norms: DecoderNorms = "ignored"
    normalisation: Normalisation = "none"
    input_scale: float = 1.0
    subtracts_decoder_bias: bool = False
    is_centred: bool = False
    max_act_M: NDArray[np.float64] | None = None
    labels: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    average_norm: float | None = None
    """Mean length of what the tap carries, where the operator or a file says it."""
    notes: tuple[str, ...] = ()
    """What its files leave open, or what was taken from elsewhere; to be shown to the operator."""
    stamps: tuple[Stamp, ...] = ()
    """The stamps of the files that it lies in."""
    digest: str = ""
    """The digest of the weights' bytes and of everything else that says what they mean."""

    @property
    def width(self) -> int:
        """How many elements a token has at the site."""
        return self.encoder_DM.shape[0]

    @property
    def site(self) -> Site:
        """Where in a layer it reads and writes."""
        return self.tap.site

    @property
    def layers(self) -> tuple[int, ...]:
        """The one layer that it knows."""
        return (self.tap.layer,)

    @property
    def num_features(self) -> int:
        """How many codes there are."""
        return self.encoder_DM.shape[1]

    @property
    def needs_all_codes(self) -> bool:
        """Whether what a feature is or writes hangs on all the others."""
        return self.form in ALL_AT_ONCE or self.polynomial is not None

    @property
    def has_negative_codes(self) -> bool:
        """Whether a code can be under zero."""
        return self.form == "abstopk" or (self.form == "pursuit" and self.pursuit.is_signed)
