"""dictionary_learning: `config.json` and `ae.safetensors`, the tensors of `ae.pt` by their names.

The library itself saves a pickle, which is never read in serving. BatchTopK and Matryoshka are
served by their saved threshold; -1 says that training never set it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.saes.autoencoder import Form, Sae
from pilothouse.artifacts.saes.build import About, build_sae, filled, renamed
from pilothouse.artifacts.saes.fields import CORRECT, Fields, read_fields
from pilothouse.artifacts.saes.hints import NOWHERE, SaeHints, Where, agreed
from pilothouse.artifacts.saes.mapped_file import Stored, map_converted

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "ae.safetensors"
PICKLE_FILE = "ae.pt"
LINEAR = {
    "encoder.weight": "W_enc.T",
    "encoder.bias": "b_enc",
    "decoder.weight": "W_dec.T",
}
PLAIN = {
    "W_enc": "W_enc",
    "b_enc": "b_enc",
    "W_dec": "W_dec",
    "b_dec": "b_dec",
    "threshold": "threshold",
}


class Kind(NamedTuple):
    """One of the library's classes, as we read it."""

    form: Form
    names: Mapping[str, str]
    subtracts_decoder_bias: bool = True


KINDS: Mapping[str, Kind] = {
    "AutoEncoder": Kind("relu", LINEAR | {"bias": "b_dec"}),
    "AutoEncoderTopK": Kind("topk", LINEAR | {"b_dec": "b_dec"}),
    "BatchTopKSAE": Kind("jumprelu", LINEAR | {"b_dec": "b_dec", "threshold": "threshold"}),
    "MatryoshkaBatchTopKSAE": Kind("jumprelu", PLAIN),
    "JumpReluAutoEncoder": Kind("jumprelu", PLAIN, subtracts_decoder_bias=False),
    "GatedAutoEncoder": Kind(
        "gated",
        {
            "encoder.weight": "W_enc.T",
            "decoder.weight": "W_dec.T",
            "decoder_bias": "b_dec",
            "r_mag": "r_mag",
            "gate_bias": "b_gate",
            "mag_bias": "b_mag",
        },
    ),
}


def load_dictionary_learning(name: str, folder: Path, told: SaeHints) -> Sae:
    """Read the SAE in a folder, after its conversion to safetensors.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    fields = read_fields(folder / CONFIG_FILE)
    trainer = fields.group("trainer")
    kind = _kind(trainer)
    model_id, tap = agreed(
        fields.place,
        told,
        None if told.model_id else trainer.text("lm_name"),
        _where(trainer),
        remedy="give `layer` and `site` beside the path in pilothouse.yaml",
    )
    place = folder / WEIGHTS_FILE
    tensors, sha256 = map_converted(place, folder / PICKLE_FILE)
    k = trainer.whole("k") if kind.form == "topk" else None
    about = About(
        form=kind.form,
        model_id=model_id,
        tap=tap,
        k=k,
        subtracts_decoder_bias=kind.subtracts_decoder_bias,
    )
    return build_sae(name, place, about, _tensors(place, tensors, kind, k), sha256)


def _kind(trainer: Fields) -> Kind:
    said = trainer.text("dict_class")
    if said not in KINDS:
        refuse(
            trainer.place,
            "trainer.dict_class",
            repr(said),
            f"one of {sorted(KINDS)}",
            "use an SAE of one of these classes",
        )
    return KINDS[said]


def _where(trainer: Fields) -> Where:
    if not trainer.has("layer"):
        return NOWHERE
    layer = trainer.raw["layer"]
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < 4096:
        refuse(trainer.place, "trainer.layer", repr(layer), "a layer", CORRECT)
    module = trainer.text("submodule_name", f"resid_post_layer_{layer}")
    return layer, "resid_post" if module == f"resid_post_layer_{layer}" else None


def _tensors(place: Path, tensors: Stored, kind: Kind, k: int | None) -> Stored:
    kept = dict(tensors)
    kept.pop("group_sizes", None)
    counted = kept.pop("k", None)
    if counted is not None and k is not None and int(counted.raw.reshape(-1)[0]) != k:
        refuse(place, "k", int(counted.raw.reshape(-1)[0]), f"{k} as {CONFIG_FILE} says", CORRECT)
    if kind.form == "topk":
        kept.pop("threshold", None)
    found = renamed(place, kept, kind.names)
    threshold = found.get("threshold")
    if threshold is not None and threshold.raw.size == 1 and "b_enc" in found:
        value = float(threshold.whole().reshape(-1)[0])
        if value < 0:
            refuse(
                place,
                "threshold",
                value,
                "a number of at least 0",
                "have dictionary_learning estimate it, and save the SAE again",
            )
        found["threshold"] = filled(found["b_enc"].shape[0], value)
    return found
