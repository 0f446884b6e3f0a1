"""From a file's tensors and fields to an SAE: every shape and number is looked at once.

Shape suffixes: D width of the site, M features.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.saes.autoencoder import (
    NO_PURSUIT,
    DecoderNorms,
    Form,
    Normalisation,
    Polynomial,
    Pursuit,
    Sae,
)
from pilothouse.artifacts.saes.mapped_file import FETCH, Stored
from pilothouse.artifacts.saes.matrix import Floats, Matrix
from pilothouse.types import PROJECTION_SITES, Tap

MAX_FEATURES = 1 << 22
NEEDED: Mapping[Form, frozenset[str]] = {
    "relu": frozenset({"b_enc"}),
    "jumprelu": frozenset({"b_enc", "threshold"}),
    "gated": frozenset({"b_gate", "b_mag", "r_mag"}),
    "topk": frozenset({"b_enc"}),
    "abstopk": frozenset({"b_enc"}),
    "top_afa": frozenset({"b_enc"}),
    "pursuit": frozenset(),
}
ALWAYS = frozenset({"W_dec", "b_dec"})
MAX_STEPS = 256
"""Steps of a matching pursuit: each is a product with the whole dictionary, for each token."""


@dataclass(frozen=True, slots=True)
class About:
    """What a file's configuration says of its tensors."""

    form: Form
    model_id: str
    tap: Tap
    k: int | None = None
    pursuit: Pursuit = NO_PURSUIT
    decoder_norms: DecoderNorms = "ignored"
    normalisation: Normalisation = "none"
    input_scale: float = 1.0
    subtracts_decoder_bias: bool = False
    is_centred: bool = False


def build_sae(
    name: str,
    place: Path,
    about: About,
    tensors: Stored,
    sha256: str,
    polynomial: Polynomial | None = None,
) -> Sae:
    """Build an SAE of tensors under SAELens' names: W_enc [D, M], W_dec [M, D] and its form's.

    A pursuit has no W_enc: its decoder's rows are its encoder.

    Raises:
        ArtefactError: tensors missing or too many, shapes that do not fit, NaN, infinities.
    """
    is_tied = about.form == "pursuit"
    _check_names(place, tensors, ALWAYS | NEEDED[about.form] | (set() if is_tied else {"W_enc"}))
    width, features = _check_shapes(place, tensors)
    for key, tensor in tensors.items():
        bad = tensor.bad_values()
        if bad:
            refuse(place, key, f"{bad} values that are NaN or infinite", "finite values", FETCH)
    if not is_tied and about.k is not None and about.k > features:
        refuse(place, "k", about.k, f"at most the {features} features", FETCH)
    if not 0 < about.input_scale < math.inf:
        refuse(place, "scale of the input", about.input_scale, "a positive number", FETCH)
    if is_tied and not 0 < (about.k or 0) <= MAX_STEPS:
        refuse(
            place,
            "steps of the pursuit",
            about.k,
            f"1 to {MAX_STEPS}",
            "bound them (SAELens: max_iterations in cfg.json): each is a product with the whole "
            "dictionary, for each token",
        )
    gated = about.form == "gated"
    return Sae(
        name=name,
        model_id=about.model_id,
        tap=about.tap,
        form=about.form,
        encoder_DM=tensors["W_dec"].transposed if is_tied else tensors["W_enc"],
        decoder_MD=tensors["W_dec"],
        encoder_bias_M=_vector(
            filled(features, 0.0) if is_tied else tensors["b_gate" if gated else "b_enc"]
        ),
        decoder_bias_D=_vector(tensors["b_dec"]),
        threshold_M=_vector(tensors["threshold"]) if about.form == "jumprelu" else None,
        magnitude_bias_M=_vector(tensors["b_mag"]) if gated else None,
        magnitude_log_M=_vector(tensors["r_mag"]) if gated else None,
        k=about.k,
        pursuit=about.pursuit,
        polynomial=polynomial,
        decoder_norms=about.decoder_norms,
        normalisation=about.normalisation,
        input_scale=about.input_scale,
        subtracts_decoder_bias=about.subtracts_decoder_bias,
        is_centred=about.is_centred and about.tap.site not in PROJECTION_SITES,
        digest=_digest(about, width, sha256),
    )


def renamed(place: Path, tensors: Stored, names: Mapping[str, str]) -> Stored:
    """Return tensors under our names; those whose name ends in `.T` are transposed.

    Raises:
        ArtefactError: a tensor of which `names` does not know.
    """
    _check_names(place, tensors, names.keys(), all_of_them=False)
    found: Stored = {}
    for name, tensor in tensors.items():
        ours = names[name]
        found[ours.removesuffix(".T")] = tensor.transposed if ours.endswith(".T") else tensor
    return found


def filled(size: int, value: float) -> Matrix:
    """Return the same number for each feature."""
    return Matrix(np.full(size, value, np.float64))


def _check_names(
    place: Path, tensors: Stored, names: Collection[str], *, all_of_them: bool = True
) -> None:
    unknown = sorted(tensors.keys() - set(names))
    if unknown:
        refuse(
            place,
            "tensors",
            unknown,
            f"none but {sorted(names)}",
            "name the format that the file has, or take one that is read",
        )
    missing = sorted(set(names) - tensors.keys())
    if missing and all_of_them:
        refuse(place, "tensors", sorted(tensors), f"{missing} too", FETCH)


def _check_shapes(place: Path, tensors: Stored) -> tuple[int, int]:
    is_tied = "W_enc" not in tensors
    first, shape = (
        ("W_dec", tensors["W_dec"].shape[::-1]) if is_tied else ("W_enc", tensors["W_enc"].shape)
    )
    if len(shape) != 2 or shape[1] > MAX_FEATURES:
        refuse(
            place,
            first,
            f"shape {list(tensors[first].shape)}",
            f"shape [width, features], at most {MAX_FEATURES} features",
            FETCH,
        )
    width, features = shape
    wanted = {"W_enc": (width, features), "W_dec": (features, width), "b_dec": (width,)}
    for name, tensor in tensors.items():
        want = wanted.get(name, (features,))
        if tensor.shape != want:
            refuse(
                place,
                name,
                f"shape {list(tensor.shape)}",
                f"shape {list(want)}",
                "name the format that the file has: others store the transpose",
            )
        if tensor.raw.dtype.kind == "i":
            refuse(place, name, f"dtype {tensor.raw.dtype}", "a float type", FETCH)
    return width, features


def _vector(tensor: Matrix) -> Floats:
    wide = tensor.whole()
    wide.setflags(write=False)
    return wide


def _digest(about: About, width: int, sha256: str) -> str:
    told = sorted(asdict(about).items())
    return hashlib.sha256(f"pilothouse sae 1\n{told!r} {width} {sha256}".encode()).hexdigest()
