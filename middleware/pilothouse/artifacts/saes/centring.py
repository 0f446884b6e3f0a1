"""Whether an SAE of TransformerLens' activations knows a stream without its mean.

TransformerLens takes the mean off whatever writes to the stream (`center_writing_weights`) unless
it is told not to, in models with layer norm, where nothing that reads can tell. SAELens trained so
at first and wrote nothing of it down; later versions write it, and switch it off.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.saes.autoencoder import Normalisation
from pilothouse.artifacts.saes.fields import Fields
from pilothouse.artifacts.saes.hints import SaeHints
from pilothouse.artifacts.saes.releases import Release, release_told_by
from pilothouse.types import PROJECTION_SITES, Site

FIELD = "center_writing_weights"
SWITCHED_OFF = (4, 0)
"""The version of SAELens from which a model is loaded as it is where a file says nothing."""
RMS_MODELS = re.compile(
    r"(?:.*/)?(?:meta-)?(?:llama|codellama|tinyllama|vicuna|gemma|mistral|mixtral|ministral|qwen|yi|"
    r"phi-?[34]|deepseek|olmo-?[23]|smollm|granite|apertus|gpt-oss)",
    re.IGNORECASE,
)
"""Beginnings of names of models with RMS norm, which are never centred."""
OPEN = (
    f"the file does not say whether the model's writing weights were centred ({FIELD}), which was "
    "TransformerLens' default: read as not centred; say is_centred: true or false in "
    "pilothouse.yaml (--centred, --not-centred) to settle it"
)


class Centring(NamedTuple):
    """Whether it is centred, and what is to be told of that."""

    is_centred: bool
    notes: tuple[str, ...] = ()


def centring_of(
    fields: Fields, told: SaeHints, release: Release | None, site: Site, norm: Normalisation
) -> Centring:
    """Tell whether an SAE is centred: by a table, its file, the operator, or that nobody knows.

    Raises:
        ArtefactError: the operator says the opposite of a file or of a release's table.
    """
    said = fields.group("model_from_pretrained_kwargs")
    known = said.flag(FIELD, False) if said.has(FIELD) else None
    notes: tuple[str, ...] = ()
    if release is not None and release.is_centred not in (None, known):
        known, notes = release.is_centred, (_listed(release),)
    if told.is_centred is not None:
        if known not in (None, told.is_centred):
            refuse(
                fields.place,
                FIELD,
                known,
                f"{told.is_centred} as pilothouse.yaml says",
                "leave `is_centred` out: it is known",
            )
        return Centring(told.is_centred)
    if known is not None:
        return Centring(known, notes)
    if site in PROJECTION_SITES or norm == "layer_norm":
        return Centring(False)
    by_fields = release_told_by(fields.raw)
    if by_fields is not None and by_fields.is_centred is not None:
        return Centring(by_fields.is_centred, (_listed(by_fields) + ", which its fields tell",))
    model = fields.raw.get("model_name")
    is_rms = isinstance(model, str) and RMS_MODELS.match(model) is not None
    return Centring(False, () if is_rms or _is_later(fields) else (OPEN,))


def _listed(release: Release) -> str:
    return f"{FIELD} is {str(release.is_centred).lower()} by SAELens' table for {release.name}"


def _is_later(fields: Fields) -> bool:
    """Return whether the version that wrote the file would have said that the model was centred."""
    version = re.match(r"(\d+)\.(\d+)", str(fields.raw.get("sae_lens_version") or ""))
    has_groups = fields.has("metadata") or fields.has("sae")
    return has_groups or (
        version is not None and (int(version[1]), int(version[2])) >= SWITCHED_OFF
    )
