"""Qwen-Scope: `layerN.sae.safetensors`, the tensors of `layerN.sae.pt` by their names.

There is no configuration: k is the end of the folder's name (`...-L0_100`), N a block whose output
is meant. Codes are max(0, z) of the k largest; the decoder's bias is not subtracted from the input.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.build import About, build_sae, renamed
from pilothouse.artifacts.saes.hints import SaeHints, agreed
from pilothouse.artifacts.saes.mapped_file import map_converted

NAMES: Mapping[str, str] = {
    "W_enc": "W_enc.T",
    "W_dec": "W_dec.T",
    "b_enc": "b_enc",
    "b_dec": "b_dec",
}
SAY = "give `model` and `layer` beside the path in pilothouse.yaml"


def load_qwen_scope(name: str, folder: Path, told: SaeHints) -> Sae:
    """Read the SAE of one layer, after its conversion to safetensors.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    kept = re.search(r"L0_(\d{1,6})$", folder.name)
    if kept is None or int(kept[1]) == 0:
        refuse(
            folder,
            "folder's name",
            repr(folder.name),
            "an end that says k, such as L0_100",
            "give the folder the name of its repository",
        )
    model_id, tap = agreed(folder, told, None, (None, "resid_post"), remedy=SAY)
    place = folder / f"layer{tap.layer}.sae.safetensors"
    pickled = folder / f"layer{tap.layer}.sae.pt"
    tensors, sha256 = map_converted(place, pickled)
    about = About(form="topk", model_id=model_id, tap=tap, k=int(kept[1]))
    return build_sae(name, place, about, renamed(place, tensors, NAMES), sha256)
