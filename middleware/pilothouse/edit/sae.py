"""SAE features: codes and what they write, and the edit of a feature as one gated row.

What an edit does to a feature's code f, the SAE's error kept, so that h + N^-1((f' - f) d):

set       t                    scale     a f                 ablate    0
add       f + t                floor     max(f, t)           cap       min(f, t)
steer     max(0, f + t)        a learned code's step (YaPO, sparse activation steering)

Each where f is over `above`, if that is given. With the normalisation linear, z is linear in h, and
the decoder's bias and all other features cancel: one row reads z and writes along d. A gated SAE's
feature is a JumpReLU whose threshold is where its gate opens. What normalises each token by itself
or chooses features by all others needs more than a row, and is refused.

Shape suffixes: T tokens, D width of the site, M features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pilothouse.edit.gate import STEEP, Gate
from pilothouse.edit.operator import Floats, Row
from pilothouse.errors import RequestError
from pilothouse.model.sae.autoencoder import ALL_AT_ONCE, Sae
from pilothouse.types import FeatureOp, Unit


class FeatureEdit(NamedTuple):
    """What becomes of one feature. `ablate` takes no value."""

    feature: int
    op: FeatureOp
    value: float = 0.0
    above: float | None = None
    """In the units of the code, as `value`: only where the code is over it."""
    unit: Unit = "raw"
    """max_act: `value` and `above` are shares of the feature's largest code; a scale never is."""


class _Read(NamedTuple):
    """A feature's z as a row, bias and threshold: its code is z where z > threshold, else 0."""

    read_D: Floats
    bias: float
    threshold: float
    write_D: Floats


def feature_rows(sae: Sae, edits: Sequence[FeatureEdit]) -> list[Row]:
    """One row for each edit, in float64, of the stream as it comes.

    Raises:
        RequestError: a feature that does not exist or is named twice, a number that does nothing,
            or a form whose features cannot be edited one by one.
    """
    features = [each.feature for each in edits]
    for each in features:
        if features.count(each) > 1:
            _refuse(sae, f"feature {each} is edited {features.count(each)} times, want once")
    return [_row(sae, each) for each in edits]


def feature_read(sae: Sae, feature: int) -> tuple[Floats, float, float]:
    """A feature as a read row [D], its bias and the threshold over which its code is z.

    Raises:
        RequestError: no such feature, or a form whose features cannot be read one by one.
    """
    read_D, bias, threshold, _ = _read(sae, feature)
    return read_D, bias, threshold


def _row(sae: Sae, edit: FeatureEdit) -> Row:
    read = _read(sae, edit.feature)
    value, above = _numbers(sae, edit)
    if edit.op == "scale":
        gate = Gate(slope=value - 1.0)
    elif edit.op == "add":
        gate = Gate(intercept=value)
    elif edit.op == "steer":
        gate = Gate(slope=-1.0, low=value)
    else:
        low, high = {"floor": (0.0, math.inf), "cap": (-math.inf, 0.0)}.get(
            edit.op, (-math.inf, math.inf)
        )
        gate = Gate(slope=-1.0, intercept=value, low=low, high=high)
    gate = gate._replace(bias=read.bias, threshold=read.threshold)
    if above is not None:
        gate = gate._replace(sharpness=STEEP, shift=-STEEP * max(above, read.threshold))
    return Row(read.read_D, read.write_D, gate)


def _numbers(sae: Sae, edit: FeatureEdit) -> tuple[float, float | None]:
    for number in (edit.value, edit.above):
        if number is not None and not math.isfinite(number):
            _refuse(sae, f"feature {edit.feature}: got {number}, want a finite number")
    if edit.op == "ablate" and edit.value != 0.0:
        _refuse(sae, f"feature {edit.feature}: got value {edit.value:g} with 'ablate', want none")
    is_idle = (edit.op, edit.value) in (("scale", 1.0), ("add", 0.0), ("steer", 0.0))
    if is_idle or (edit.op == "floor" and edit.value <= 0.0):
        _refuse(sae, f"feature {edit.feature}: {edit.op!r} by {edit.value:g} changes nothing")
    if edit.above is not None and edit.above < 0:
        _refuse(sae, f"feature {edit.feature}: got above {edit.above:g}, want at least 0")
    if edit.unit == "raw":
        return edit.value, edit.above
    largest = 0.0 if sae.max_act_M is None else float(sae.max_act_M[edit.feature])
    if largest <= 0.0:
        known = "no file of largest codes" if sae.max_act_M is None else "a feature never on"
        _refuse(sae, f"feature {edit.feature}: unit 'max_act' with {known}; use the unit 'raw'")
    value = edit.value if edit.op == "scale" else edit.value * largest
    return value, None if edit.above is None else edit.above * largest


def _read(sae: Sae, feature: int) -> _Read:
    if not 0 <= feature < sae.num_features:
        _refuse(sae, f"got feature {feature}, want 0 to {sae.num_features - 1}")
    if sae.form in ALL_AT_ONCE:
        _refuse(
            sae,
            f"is of the form {sae.form!r}, whose features are chosen all at once: a single "
            "feature cannot be edited yet; use an SAE with thresholds (JumpReLU, BatchTopK)",
        )
    if sae.normalisation != "none":
        _refuse(
            sae,
            f"normalises each token ({sae.normalisation}), which edits cannot yet; use an SAE "
            "without, or with one constant for all tokens",
        )
    encoder_D, decoder_D = sae.encoder_DM.column(feature), sae.decoder_MD.row(feature)
    bias = float(sae.encoder_bias_M[feature])
    subtracted = float(sae.decoder_bias_D @ encoder_D) if sae.subtracts_decoder_bias else 0.0
    read_D = sae.input_scale * encoder_D
    if sae.is_centred:
        read_D = read_D - read_D.mean()
    write_D = decoder_D / sae.input_scale
    if sae.form == "gated":
        assert sae.magnitude_log_M is not None
        assert sae.magnitude_bias_M is not None
        grown = math.exp(float(sae.magnitude_log_M[feature]))
        whole = float(sae.magnitude_bias_M[feature])
        threshold = max(0.0, whole - grown * bias)
        return _Read(grown * read_D, whole - grown * subtracted, threshold, write_D)
    return _Read(read_D, bias - subtracted, _threshold(sae, feature, decoder_D), write_D)


def _threshold(sae: Sae, feature: int, decoder_D: Floats) -> float:
    if sae.threshold_M is None:
        return 0.0
    threshold = max(0.0, float(sae.threshold_M[feature]))
    if sae.decoder_norms == "ignored":
        return threshold
    length = float(np.linalg.norm(decoder_D))
    return threshold / length if length else math.inf


def _refuse(sae: Sae, said: str) -> None:
    raise RequestError(f"steer: SAE {sae.name!r}: {said}", param="steer")
