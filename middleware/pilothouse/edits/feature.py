"""SAE features in a term: what it asks of which of them, and how far that may carry the stream.

All edits of one SAE that hold together are compiled by one call, so that a feature is edited once.

Shapes: D width of the tap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NoReturn, get_args

import numpy as np

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.file_guard import written
from pilothouse.edits.row import RowStage, row_parts
from pilothouse.edits.sae import FeatureEdit, feature_rows
from pilothouse.edits.table import Parts
from pilothouse.errors import RequestError
from pilothouse.term import SteerTerm
from pilothouse.types import FeatureOp, Unit

UNITS: tuple[Unit, ...] = ("raw", "max_act")
SHOWN = 8
"""Labels or features that a complaint lists at most."""


def feature_op(term: SteerTerm, sae: Sae) -> FeatureOp:
    """Return what a term does with codes: by default `set`, or `scale` where it has only a scale.

    Raises:
        RequestError: another operator, or a field that this one does not take.
    """
    if term.gate is not None:
        _refuse(sae, "gate: got one, want none: `above` says where a feature is edited")
    if term.sites != "own":
        _refuse(sae, f"sites: got {term.sites!r}, want none: an SAE writes where it reads")
    if term.unit not in UNITS:
        _refuse(sae, f"unit: got {term.unit!r}, want one of {list(UNITS)}")
    asked = term.op or ("scale" if term.scale is not None and term.value is None else "set")
    named: FeatureOp | None = next((each for each in get_args(FeatureOp) if each == asked), None)
    if named is None:
        _refuse(sae, f"op: got {asked!r}, want one of {list(get_args(FeatureOp))}")
    _check_numbers(term, sae, named)
    return named


def feature_edits(term: SteerTerm, sae: Sae) -> list[FeatureEdit]:
    """Return what becomes of each feature of a term.

    Raises:
        RequestError: as `feature_op`, a label that no feature has, or several, or files that are
            not any more as they were loaded.
    """
    changed = next(written(sae.stamps), None)
    if changed is not None:
        _refuse(
            sae,
            f"{changed} was written to since it was loaded: put the new one into a folder of its "
            "own and load that, or restart",
        )
    op = feature_op(term, sae)
    value = (term.scale if op == "scale" else term.value) or 0.0
    return [FeatureEdit(each, op, value, term.above, term.unit) for each in _features(term, sae)]


def feature_parts(terms: Sequence[SteerTerm], sae: Sae) -> Parts:
    """Return what the terms of one SAE do together.

    Raises:
        RequestError: as `feature_edits` and `feature_rows`.
    """
    edits = [edit for term in terms for edit in feature_edits(term, sae)]
    return row_parts(RowStage.CODE, feature_rows(sae, edits))


def feature_growth(term: SteerTerm, sae: Sae) -> float:
    """Return a bound on how much longer the stream gets, as a share of its mean length.

    What is taken away up to the code itself counts as nothing: the SAE says it was there. What is
    written beyond counts by its length. Where a code is multiplied, it is taken to be `max_act`,
    or, where that is not known, to stand for no more than the whole stream.

    Raises:
        RequestError: as `feature_edits`, or the mean length is not known.
    """
    return math.fsum(_growth(edit, sae) for edit in feature_edits(term, sae))


def labelled(label: str, sae: Sae) -> int:
    """Return the one feature that has a label.

    Raises:
        RequestError: none has it, or several.
    """
    found = [feature for feature, each in sae.labels.items() if each == label]
    if len(found) > 1:
        _refuse(sae, f"feature: label {label!r} is of features {found[:SHOWN]}, want a number")
    if not sae.labels:
        _refuse(sae, f"feature: got the label {label!r}, want a number: no labels are loaded")
    if not found:
        near = get_close_matches(label, set(sae.labels.values()), n=SHOWN, cutoff=0.5)
        _refuse(sae, f"feature: no label is {label!r}, near are {near}: take one, or a number")
    return found[0]


def mean_norm(sae: Sae) -> float:
    """Return the mean length of what the tap carries.

    Raises:
        RequestError: nobody says it.
    """
    if sae.average_norm is None:
        raise RequestError(
            f"saes.{sae.name}.average_norm: got nothing, want the mean length of what {sae.site} "
            f"of layer {sae.tap.layer} carries, which `limits.max_norm_ratio` is a share of: "
            "measure it with `LLM.capture`, or take it from the SAE's card",
            param="steer",
        )
    return sae.average_norm


def _check_numbers(term: SteerTerm, sae: Sae, op: FeatureOp) -> None:
    wanted = {"scale": "scale", "ablate": ""}.get(op, "value")
    for name in ("scale", "value"):
        number = getattr(term, name)
        if name == wanted and number is None:
            _refuse(sae, f"{name}: got nothing, want a number for {op!r}")
        if name != wanted and number is not None:
            _refuse(sae, f"{name}: got {number:g}, but {op!r} takes none: remove it")
    counted = [each for each in (term.above, term.value) if each is not None]
    if term.unit == "max_act" and not counted:
        _refuse(sae, f"unit: got 'max_act', but {op!r} counts nothing in it here: remove it")


def _features(term: SteerTerm, sae: Sae) -> tuple[int, ...]:
    named = term.feature
    assert named is not None
    if isinstance(named, int):
        return (named,)
    return (labelled(named, sae),) if isinstance(named, str) else named


def _growth(edit: FeatureEdit, sae: Sae) -> float:
    per_code = _share_per_code(edit.feature, sae)
    largest = 0.0 if sae.max_act_M is None else float(sae.max_act_M[edit.feature])
    if edit.op == "scale":
        beyond = max(edit.value - 1.0, -edit.value, 0.0)
        return beyond * (largest * per_code if sae.max_act_M is not None else 1.0)
    value = edit.value * (largest if edit.unit == "max_act" else 1.0)
    if edit.op == "cap" or edit.op == "steer":
        value = min(value, 0.0) if edit.op == "cap" else max(value, 0.0)
    return abs(value) * per_code


def _share_per_code(feature: int, sae: Sae) -> float:
    """Return how long a code of 1 is in the stream, as a share of its mean length."""
    if not 0 <= feature < sae.num_features:
        _refuse(sae, f"feature: got {feature}, want 0 to {sae.num_features - 1}")
    length = 1.0
    if sae.decoder_norms != "scale":
        length = float(np.linalg.norm(sae.decoder_MD.row(feature)))
    if sae.normalisation == "none":
        return length / sae.input_scale / mean_norm(sae)
    # Undone with the token's own length (or its std, which is no more than that share of it).
    return length / sae.input_scale / math.sqrt(sae.width - (sae.normalisation == "layer_norm"))


def _refuse(sae: Sae, said: str) -> NoReturn:
    raise RequestError(f"steer: SAE {sae.name!r}: {said}", param="steer")
