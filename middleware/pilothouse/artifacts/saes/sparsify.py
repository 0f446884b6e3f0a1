"""sparsify (EleutherAI): `cfg.json` and `sae.safetensors` in a folder named by its hook point.

Codes are max(0, z) of the k largest, of the input less the decoder's bias. `W_dec` is stored
[features, width] as we have it; shapes decide, not what other readers do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.build import About, build_sae, renamed
from pilothouse.artifacts.saes.fields import CORRECT, read_fields, tap_of
from pilothouse.artifacts.saes.hints import SaeHints, agreed
from pilothouse.artifacts.saes.mapped_file import map_safetensors

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae.safetensors"
NAMES: Mapping[str, str] = {
    "encoder.weight": "W_enc.T",
    "encoder.bias": "b_enc",
    "W_dec": "W_dec",
    "b_dec": "b_dec",
}
TRANSCODER = "use an SAE that reads and writes at the same place; transcoders are not read"


def load_sparsify(name: str, folder: Path, told: SaeHints) -> Sae:
    """Read the SAE in a folder.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    fields = read_fields(folder / CONFIG_FILE)
    fields.never("transcode", TRANSCODER)
    fields.never("skip_connection", TRANSCODER)
    fields.never("signed", "its codes keep their sign; use an SAE without")
    if fields.text("activation", "topk") != "topk":
        refuse(
            fields.place,
            "activation",
            repr(fields.raw["activation"]),
            "'topk'",
            "use an SAE with the activation topk",
        )
    where = tap_of(fields.place, "folder's name", folder.absolute().name, told)
    model_id, tap = agreed(
        fields.place, told, None, where, remedy="give `model` beside the path in pilothouse.yaml"
    )
    place = folder / WEIGHTS_FILE
    stored, sha256 = map_safetensors(place)
    about = About(
        form="topk", model_id=model_id, tap=tap, k=fields.whole("k"), subtracts_decoder_bias=True
    )
    built = build_sae(name, place, about, renamed(place, stored, NAMES), sha256)
    if fields.whole("d_in") != built.width:
        refuse(
            fields.place,
            "d_in",
            fields.whole("d_in"),
            f"{built.width} as {WEIGHTS_FILE} has",
            CORRECT,
        )
    return built
