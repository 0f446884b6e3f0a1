"""ITDA (Leask et al. 2025): `metadata.yaml` and `atoms.safetensors`, the tensor of `atoms.pt`.

Codes come from a matching pursuit of `k` steps over the atoms, each the one that is largest in
size, so that codes keep their sign. There is no bias.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pilothouse.artifacts.folder import MAX_MANIFEST_BYTES, read_file, refuse
from pilothouse.artifacts.saes.autoencoder import Pursuit, Sae
from pilothouse.artifacts.saes.build import About, build_sae, filled
from pilothouse.artifacts.saes.fields import CORRECT, Fields
from pilothouse.artifacts.saes.hints import SaeHints, Where, agreed
from pilothouse.artifacts.saes.mapped_file import FETCH, map_converted

METADATA_FILE = "metadata.yaml"
WEIGHTS_FILE = "atoms.safetensors"
PICKLE_FILE = "atoms.pt"


def load_itda(name: str, folder: Path, told: SaeHints) -> Sae:
    """Read the dictionary in a folder, after its conversion to safetensors.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    fields = _fields(folder / METADATA_FILE)
    where: Where = (_layer(fields), None if fields.has("submodule_name") else "resid_post")
    model_id, tap = agreed(
        fields.place,
        told,
        None if told.model_id else fields.text("lm_name"),
        where,
        remedy="give `layer` and `site` beside the path in pilothouse.yaml",
    )
    place = folder / WEIGHTS_FILE
    stored, sha256 = map_converted(place, folder / PICKLE_FILE)
    stored.pop("atom_indices", None)
    if set(stored) != {"atoms"} or len(stored["atoms"].shape) != 2:
        shapes = {key: list(each.shape) for key, each in stored.items()}
        refuse(place, "tensors", shapes, "'atoms' [atoms, width] alone", FETCH)
    atoms = stored["atoms"]
    width = fields.whole("activation_dim")
    if width != atoms.shape[1]:
        refuse(
            fields.place,
            "activation_dim",
            width,
            f"{atoms.shape[1]} as {WEIGHTS_FILE} has",
            CORRECT,
        )
    about = About(
        form="pursuit",
        model_id=model_id,
        tap=tap,
        k=fields.whole("k"),
        pursuit=Pursuit(is_signed=True),
    )
    return build_sae(name, place, about, {"W_dec": atoms, "b_dec": filled(width, 0.0)}, sha256)


def _layer(fields: Fields) -> int:
    layer = fields.raw.get("layer")
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < 4096:
        refuse(fields.place, "layer", repr(layer), "a layer", CORRECT)
    return layer


def _fields(place: Path) -> Fields:
    try:
        raw: Any = yaml.safe_load(read_file(place, MAX_MANIFEST_BYTES))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        refuse(place, "content", f"{type(error).__name__}", "YAML", CORRECT)
    if not isinstance(raw, dict):
        refuse(place, "content", type(raw).__name__, "fields and their values", CORRECT)
    return Fields(place, raw)
