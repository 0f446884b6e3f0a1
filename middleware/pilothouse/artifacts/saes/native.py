"""Our own layout of an SAE: `manifest.json` and `weights.safetensors`, as `sae import` writes it.

Tensors are under SAELens' names in the types they had, so that nothing is rounded; the manifest
says what they mean, where they came from, and has a digest of itself and of the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pilothouse.artifacts.folder import MANIFEST_FILE, WEIGHTS_FILE, read_manifest, refuse
from pilothouse.artifacts.manifest import FORMAT, Closed, Layer, Sha256
from pilothouse.artifacts.saes.autoencoder import (
    DecoderNorms,
    Form,
    Normalisation,
    Pursuit,
    Sae,
)
from pilothouse.artifacts.saes.build import About, build_sae
from pilothouse.artifacts.saes.hints import SaeHints, agreed
from pilothouse.artifacts.saes.mapped_file import Stored, map_safetensors, write_safetensors
from pilothouse.artifacts.saes.matrix import Floats, Matrix
from pilothouse.artifacts.saes.polynomial import factors_of, take_factors
from pilothouse.config import Name
from pilothouse.types import Site

NAME = "pilothouse"
SAY = "import the SAE again with other options, or leave them out"


class SaeSource(Closed):
    """Where an imported SAE came from: the place, its layout, and the digest of each file read."""

    place: str = Field(min_length=1, max_length=1024)
    format: str = Field(min_length=1, max_length=64)
    revision: str | None = Field(default=None, max_length=64)
    files: dict[Annotated[str, Field(max_length=256)], Sha256]


class SaePursuit(Closed):
    """How a matching pursuit goes and ends; the fields of `autoencoder.Pursuit`."""

    is_signed: bool
    residual_threshold: float = Field(ge=0)
    ends_on_repeat: bool


class SaeManifest(Closed):
    """What an SAE's own folder says of it; the fields of `build.About`, sizes and digests."""

    format: Literal["pilothouse/v1"] = "pilothouse/v1"
    kind: Literal["sae"] = "sae"
    name: Name
    model_id: str = Field(min_length=1, max_length=256)
    layer: Layer
    site: Site
    width: int = Field(ge=1, le=1 << 20)
    num_features: int = Field(ge=1, le=1 << 22)
    form: Form
    k: int | None = Field(default=None, ge=1)
    pursuit: SaePursuit | None = None
    decoder_norms: DecoderNorms
    normalisation: Normalisation
    input_scale: float = Field(gt=0)
    subtracts_decoder_bias: bool
    is_centred: bool
    average_norm: float | None = Field(default=None, gt=0)
    """Mean length of what the tap carries, where it was measured or said."""
    source: SaeSource
    created_by: str = Field(min_length=1, max_length=512)
    weights_bytes: int = Field(ge=8)
    weights_sha256: Sha256
    digest: Sha256


def load_own(name: str, folder: Path, told: SaeHints) -> Sae:
    """Read the SAE in a folder that `sae import` wrote.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    manifest, raw = read_manifest(folder, SaeManifest, "sae")
    place, at = folder / WEIGHTS_FILE, folder / MANIFEST_FILE
    if manifest.digest != _digest(raw):
        refuse(at, "digest", manifest.digest, _digest(raw))
    model_id, tap = agreed(at, told, manifest.model_id, (manifest.layer, manifest.site), remedy=SAY)
    if told.is_centred not in (None, manifest.is_centred):
        refuse(
            at, "is_centred", manifest.is_centred, f"{told.is_centred} as pilothouse.yaml says", SAY
        )
    tensors, sha256 = map_safetensors(place)
    if sha256 != manifest.weights_sha256:
        refuse(place, "weights_sha256", sha256, manifest.weights_sha256)
    kept = {each.name for each in fields(About)} - {"model_id", "tap", "pursuit"}
    told_of = {each: getattr(manifest, each) for each in kept}
    if manifest.pursuit is not None:
        told_of["pursuit"] = Pursuit(**manifest.pursuit.model_dump())
    about = About(model_id=model_id, tap=tap, **told_of)
    polynomial = take_factors(place, tensors)
    built = build_sae(name, place, about, tensors, sha256, polynomial)
    for field_name in ("width", "num_features"):
        got, want = getattr(manifest, field_name), getattr(built, field_name)
        if got != want:
            refuse(at, field_name, got, f"{want} as {WEIGHTS_FILE} has")
    return replace(built, digest=manifest.digest, average_norm=manifest.average_norm)


def save_own(sae: Sae, folder: Path, source: SaeSource, created_by: str) -> SaeManifest:
    """Write an SAE into a folder, made if it is not there; the manifest last.

    Returns:
        The manifest that was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / WEIGHTS_FILE
    write_safetensors(place, _tensors(sae))
    _, sha256 = map_safetensors(place)
    told = {
        "format": FORMAT,
        "kind": "sae",
        "name": sae.name,
        "model_id": sae.model_id,
        "layer": sae.tap.layer,
        "site": sae.tap.site,
        "width": sae.width,
        "num_features": sae.num_features,
        "form": sae.form,
        "k": sae.k,
        "pursuit": sae.pursuit._asdict() if sae.form == "pursuit" else None,
        "decoder_norms": sae.decoder_norms,
        "normalisation": sae.normalisation,
        "input_scale": sae.input_scale,
        "subtracts_decoder_bias": sae.subtracts_decoder_bias,
        "is_centred": sae.is_centred,
        "average_norm": sae.average_norm,
        "source": source.model_dump(mode="json"),
        "created_by": created_by,
        "weights_bytes": place.stat().st_size,
        "weights_sha256": sha256,
    }
    manifest = SaeManifest.model_validate(told | {"digest": _digest(told)})
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")
    return manifest


def _tensors(sae: Sae) -> Stored:
    if sae.form == "pursuit":
        return {"W_dec": sae.decoder_MD, "b_dec": _narrowed(sae.decoder_bias_D)}
    bias = "b_gate" if sae.form == "gated" else "b_enc"
    vectors = {
        bias: sae.encoder_bias_M,
        "b_dec": sae.decoder_bias_D,
        "threshold": sae.threshold_M,
        "b_mag": sae.magnitude_bias_M,
        "r_mag": sae.magnitude_log_M,
    }
    kept = {name: _narrowed(each) for name, each in vectors.items() if each is not None}
    factors = {name: _narrowed(each) for name, each in factors_of(sae.polynomial).items()}
    return {"W_enc": sae.encoder_DM, "W_dec": sae.decoder_MD} | kept | factors


def _narrowed(wide: Floats) -> Matrix:
    """Return a matrix in float32 where that has the same numbers."""
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    return Matrix(narrow if np.array_equal(narrow, wide) else wide)


def _digest(raw: Mapping[str, Any]) -> str:
    """Return the digest of the rest of the manifest, the weights' among it, in canonical JSON."""
    content = {key: value for key, value in raw.items() if key != "digest"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
