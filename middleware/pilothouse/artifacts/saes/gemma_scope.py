"""Gemma Scope: `params.npz` in `layer_N/width_W/average_l0_K`; Gemma Scope 2: `params.safetensors`.

JumpReLU throughout; the decoder's bias is not subtracted from the input. The first has no
configuration, and tells its layer by its folder and its site by its repository, which a local
copy does not have: the operator says it. SAEs of the embedding know a stream scaled by sqrt(D).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.saes.archive import read_archive
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.build import About, build_sae, renamed
from pilothouse.artifacts.saes.fields import read_fields
from pilothouse.artifacts.saes.hints import SaeHints, agreed
from pilothouse.artifacts.saes.hook import tap_of
from pilothouse.artifacts.saes.mapped_file import map_safetensors

ARCHIVE_FILE = "params.npz"
WEIGHTS_FILE = "params.safetensors"
CONFIG_FILE = "config.json"
NAMES: Mapping[str, str] = {
    "W_enc": "W_enc",
    "w_enc": "W_enc",
    "W_dec": "W_dec",
    "w_dec": "W_dec",
    "b_enc": "b_enc",
    "b_dec": "b_dec",
    "threshold": "threshold",
}
SAY = "give `model`, `layer` and `site` beside the path in pilothouse.yaml"
OTHER_SAE = "use an SAE of resid_post, attn_out or mlp_out"


def load_gemma_scope(name: str, folder: Path, told: SaeHints) -> Sae:
    """The SAE in a folder of Gemma Scope.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    place = folder / ARCHIVE_FILE
    if folder.parent.parent.name == "embedding" or told.site == "embed":
        refuse(
            place,
            "site",
            "'embed'",
            "a site inside the blocks",
            "these SAEs know a scaled embedding; use one of the residual stream",
        )
    found = re.search(r"layer_(\d{1,4})", "/".join(folder.parts[-3:]))
    layer = int(found[1]) if found else None
    model_id, tap = agreed(place, told, None, (layer, None), remedy=SAY)
    tensors, sha256 = read_archive(place)
    about = About(form="jumprelu", model_id=model_id, tap=tap)
    return build_sae(name, place, about, renamed(place, tensors, NAMES), sha256)


def load_gemma_scope_2(name: str, folder: Path, told: SaeHints) -> Sae:
    """The SAE in a folder of Gemma Scope 2.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    fields = read_fields(folder / CONFIG_FILE)
    if fields.text("architecture") != "jump_relu":
        refuse(
            fields.place, "architecture", repr(fields.raw["architecture"]), "'jump_relu'", OTHER_SAE
        )
    fields.never("hf_hook_point_out", "transcoders are not read; " + OTHER_SAE)
    where = tap_of(fields.place, "hf_hook_point_in", fields.text("hf_hook_point_in"), told)
    model_id, tap = agreed(
        fields.place, told, None if told.model_id else fields.text("model_name"), where, remedy=SAY
    )
    place = folder / WEIGHTS_FILE
    tensors, sha256 = map_safetensors(place)
    about = About(form="jumprelu", model_id=model_id, tap=tap)
    return build_sae(name, place, about, renamed(place, tensors, NAMES), sha256)
