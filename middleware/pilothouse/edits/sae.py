"""SAE features: codes and what they write, and the edit of a feature as one gated row.

What an edit does to a feature's code f, the SAE's error kept, so that h + N^-1((f' - f) d):

set       t                    scale     a f                 ablate    0
add       f + t                floor     max(f, t)           cap       min(f, t)
steer     max(0, f + t)        a learned code's step (YaPO, sparse activation steering)

Each where f is over `above`, if that is given. The decoder's bias and all other features cancel:
one row reads z and writes along d, both in the statistic of the token by which the SAE normalises
it. A gated SAE's feature is a JumpReLU whose threshold is where its gate opens. Where features are
chosen by all others the row reads the code of the SAE that is resident at the tap. A decoder that
is not linear in the codes adds what the edited features do with the others to what rows write.

Shape suffixes: T tokens, D width of the site, M features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pilothouse.artifacts.saes.autoencoder import ALL_AT_ONCE, Sae
from pilothouse.edits.gate import STEEP, Gate
from pilothouse.edits.row import Latent, Row
from pilothouse.edits.sae_codes import is_without_mean, statistic_of
from pilothouse.edits.statistic import Statistic
from pilothouse.edits.table import Floats
from pilothouse.errors import RequestError
from pilothouse.types import FeatureOp, Unit

SHUT = 1e5
"""sigmoid(-1e5) is 0 exactly: a code of 0, which is a code that is off, is not over 0."""


class FeatureEdit(NamedTuple):
    """What becomes of one feature. `ablate` takes no value."""

    feature: int
    op: FeatureOp
    value: float = 0.0
    above: float | None = None
    """In the units of the code, as `value`: only where the code is over it."""
    unit: Unit = "raw"
    """max_act: `value` and `above` are shares of the feature's largest code; a scale never is."""


class FeatureRead(NamedTuple):
    """A feature's z as a row and a bias: its code is z where z > threshold, else 0.

    The row reads in the SAE's `statistic` of the token: z = factor <read, h> + bias.
    """

    read_D: Floats
    bias: float
    threshold: float
    statistic: Statistic


def feature_rows(sae: Sae, edits: Sequence[FeatureEdit]) -> list[Row]:
    """Return a float64 row for each edit: of the stream as it comes, or of a resident SAE's codes.

    Raises:
        RequestError: a feature that does not exist or is named twice, or a number that does
            nothing.
    """
    features = [each.feature for each in edits]
    for each in features:
        if features.count(each) > 1:
            _refuse(sae, f"feature {each} is edited {features.count(each)} times, want once")
    return [_row(sae, each) for each in edits]


def feature_read(sae: Sae, feature: int) -> FeatureRead:
    """Return a feature as a read row.

    Raises:
        RequestError: no such feature, or a form whose features cannot be read one by one.
    """
    check_feature(sae, feature)
    if sae.form in ALL_AT_ONCE:
        _refuse(
            sae,
            f"is of the form {sae.form!r}: whether a feature is on hangs on all others, which one "
            "row cannot read; use an SAE with thresholds (JumpReLU, BatchTopK)",
        )
    return _read(sae, feature)


def plain_read(sae: Sae, feature: int) -> FeatureRead:
    """Return a feature as a read row of the stream as it is.

    Raises:
        RequestError: as `feature_read`, or a normalisation of each token.
    """
    read = feature_read(sae, feature)
    if read.statistic != Statistic.NONE:
        _refuse(
            sae,
            f"normalises each token ({sae.normalisation}), which a row that reads the stream as it "
            "is cannot; use an SAE without, or with one constant for all tokens",
        )
    return read


def check_feature(sae: Sae, feature: int) -> None:
    """Refuse a number that the SAE has no feature for.

    Raises:
        RequestError: says which numbers it has.
    """
    if not 0 <= feature < sae.num_features:
        _refuse(sae, f"got feature {feature}, want 0 to {sae.num_features - 1}")


def _row(sae: Sae, edit: FeatureEdit) -> Row:
    check_feature(sae, edit.feature)
    value, above = _numbers(sae, edit)
    gate = _gate(edit, value)
    statistic, write_D = statistic_of(sae), _write(sae, edit.feature)
    if sae.needs_all_codes:
        if above is not None:
            gate = gate._replace(sharpness=STEEP, shift=-STEEP * above - SHUT)
        latent = Latent(sae.digest, edit.feature, sae.polynomial is None)
        return Row(np.zeros(sae.width), write_D, gate, statistic, latent)
    read = _read(sae, edit.feature)
    gate = gate._replace(bias=read.bias, threshold=read.threshold)
    if above is not None:
        gate = gate._replace(sharpness=STEEP, shift=-STEEP * max(above, read.threshold))
    return Row(read.read_D, write_D, gate, statistic)


def _gate(edit: FeatureEdit, value: float) -> Gate:
    if edit.op == "scale":
        return Gate(slope=value - 1.0)
    if edit.op == "add":
        return Gate(intercept=value)
    if edit.op == "steer":
        return Gate(slope=-1.0, low=value)
    low, high = {"floor": (0.0, math.inf), "cap": (-math.inf, 0.0)}.get(
        edit.op, (-math.inf, math.inf)
    )
    return Gate(slope=-1.0, intercept=value, low=low, high=high)


def _write(sae: Sae, feature: int) -> Floats:
    """Along which the code is written, of length |d|, or 1 where codes hold the length."""
    decoder_D = sae.decoder_MD.row(feature)
    length = float(np.linalg.norm(decoder_D)) if sae.decoder_norms == "scale" else 1.0
    return decoder_D / ((length or 1.0) * sae.input_scale)


def _numbers(sae: Sae, edit: FeatureEdit) -> tuple[float, float | None]:
    for number in (edit.value, edit.above):
        if number is not None and not math.isfinite(number):
            _refuse(sae, f"feature {edit.feature}: got {number}, want a finite number")
    if edit.op == "ablate" and edit.value != 0.0:
        _refuse(sae, f"feature {edit.feature}: got value {edit.value:g} with 'ablate', want none")
    idle = {("scale", 1.0), ("add", 0.0)} | (set() if sae.has_negative_codes else {("steer", 0.0)})
    is_low = edit.op == "floor" and edit.value <= 0.0 and not sae.has_negative_codes
    if is_low or (edit.op, edit.value) in idle:
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


def _read(sae: Sae, feature: int) -> FeatureRead:
    encoder_D = sae.encoder_DM.column(feature)
    bias = float(sae.encoder_bias_M[feature])
    subtracted = float(sae.decoder_bias_D @ encoder_D) if sae.subtracts_decoder_bias else 0.0
    read_D = sae.input_scale * encoder_D
    if is_without_mean(sae):
        read_D = read_D - read_D.mean()
    if sae.form == "gated":
        assert sae.magnitude_log_M is not None
        assert sae.magnitude_bias_M is not None
        grown = math.exp(float(sae.magnitude_log_M[feature]))
        whole = float(sae.magnitude_bias_M[feature])
        threshold = max(0.0, whole - grown * bias)
        return FeatureRead(grown * read_D, whole - grown * subtracted, threshold, statistic_of(sae))
    threshold = _threshold(sae, feature)
    return FeatureRead(read_D, bias - subtracted, threshold, statistic_of(sae))


def _threshold(sae: Sae, feature: int) -> float:
    if sae.threshold_M is None:
        return 0.0
    threshold = max(0.0, float(sae.threshold_M[feature]))
    if sae.decoder_norms == "ignored":
        return threshold
    length = float(np.linalg.norm(sae.decoder_MD.row(feature)))
    return threshold / length if length else math.inf


def _refuse(sae: Sae, said: str) -> None:
    raise RequestError(f"steer: SAE {sae.name!r}: {said}", param="steer")
