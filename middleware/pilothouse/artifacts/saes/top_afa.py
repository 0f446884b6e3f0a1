"""top-AFA (Lee et al. 2025): `config.json` and `sae.safetensors`, the tensors of `sae.pt`.

As many codes are on as bring the length of what they write nearest to that of the input. The
library's encoder has no bias: `b_enc` is saved and never used. Its `input_unit_norm` is a layer
norm.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.saes.autoencoder import Normalisation, Sae
from pilothouse.artifacts.saes.build import About, build_sae, filled
from pilothouse.artifacts.saes.centring import centring_of
from pilothouse.artifacts.saes.fields import CORRECT, read_fields, tap_of
from pilothouse.artifacts.saes.hints import SaeHints, agreed
from pilothouse.artifacts.saes.mapped_file import map_converted

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "sae.safetensors"
PICKLE_FILE = "sae.pt"


def load_top_afa(name: str, folder: Path, told: SaeHints) -> Sae:
    """Read the SAE in a folder, after its conversion to safetensors.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    fields = read_fields(folder / CONFIG_FILE)
    said = fields.text("sae_type").replace("-", "").replace("_", "").lower()
    if said != "topafa":
        refuse(
            fields.place,
            "sae_type",
            repr(fields.raw["sae_type"]),
            "'topafa'",
            "use an SAE whose codes are matched to the input's norm",
        )
    model_id, tap = agreed(
        # TransformerLens has names of its own for models, so the operator's wins.
        fields.place,
        told,
        None if told.model_id else fields.text("model_name"),
        tap_of(fields.place, "hook_point", fields.text("hook_point"), told),
        remedy=CORRECT,
    )
    place = folder / WEIGHTS_FILE
    stored, sha256 = map_converted(place, folder / PICKLE_FILE)
    if "b_enc" in stored:
        stored["b_enc"] = filled(stored["b_enc"].shape[0], 0.0)
    norm: Normalisation = "layer_norm" if fields.flag("input_unit_norm", False) else "none"
    centring = centring_of(fields, told, None, tap.site, norm)
    about = About(
        form="top_afa",
        model_id=model_id,
        tap=tap,
        normalisation=norm,
        subtracts_decoder_bias=True,
        is_centred=centring.is_centred,
    )
    built = build_sae(name, place, about, stored, sha256)
    for field_name, size in (("act_size", built.width), ("dict_size", built.num_features)):
        if fields.whole(field_name) != size:
            refuse(
                fields.place,
                field_name,
                fields.whole(field_name),
                f"{size} as {WEIGHTS_FILE} has",
                CORRECT,
            )
    return replace(built, notes=centring.notes)
