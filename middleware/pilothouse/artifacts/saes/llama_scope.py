"""Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors`, one threshold for all.

Inputs were scaled to a mean length of sqrt(D). The threshold is of codes in that scale times that
scale, as SAELens has it. The distilled R1 series: `config.json` and `sae_weights.safetensors` with
the logarithm of each feature's threshold, and no mean length: that of the published ones is in
SAELens' table, of others the operator says it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.saes.autoencoder import DecoderNorms, Sae
from pilothouse.artifacts.saes.build import About, build_sae, filled, renamed
from pilothouse.artifacts.saes.fields import Fields, read_fields, tap_of
from pilothouse.artifacts.saes.hints import SaeHints, agreed, scale_of_input
from pilothouse.artifacts.saes.mapped_file import map_safetensors
from pilothouse.artifacts.saes.matrix import Matrix
from pilothouse.artifacts.saes.releases import input_scale_of
from pilothouse.types import Tap

HYPERPARAMS_FILE = "hyperparams.json"
FINAL_FILE = "checkpoints/final.safetensors"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "sae_weights.safetensors"
NAMES: Mapping[str, str] = {
    "encoder.weight": "W_enc.T",
    "encoder.bias": "b_enc",
    "decoder.weight": "W_dec.T",
    "decoder.bias": "b_dec",
}
LOG_THRESHOLD = "log_jumprelu_threshold"
SAY = "give `model` beside the path in pilothouse.yaml"
TRANSCODER = "use an SAE that reads and writes at the same place; transcoders are not read"


def load_llama_scope(name: str, folder: Path, told: SaeHints) -> Sae:
    """Read the SAE in a folder of Llama Scope.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    fields = read_fields(folder / HYPERPARAMS_FILE)
    model_id, tap = where(fields, told)
    norm = fields.group("dataset_average_activation_norm").number("in")
    scale = scale_of_input(fields.place, fields.whole("d_model"), norm, told)
    threshold = fields.number("jump_relu_threshold") * scale
    place = folder / FINAL_FILE
    stored, sha256 = map_safetensors(place)
    tensors = renamed(place, stored, NAMES)
    if "b_enc" in tensors:
        tensors["threshold"] = filled(tensors["b_enc"].shape[0], threshold)
    about = About(
        form="jumprelu",
        model_id=model_id,
        tap=tap,
        input_scale=scale,
        decoder_norms=decoder_norms(fields, default=False),
    )
    return build_sae(name, place, about, tensors, f"{sha256} {threshold!r}")


def load_llama_scope_r1(name: str, folder: Path, told: SaeHints) -> Sae:
    """Read the SAE in a folder of the distilled R1 series of Llama Scope.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    fields = read_fields(folder / CONFIG_FILE)
    model_id, tap = where(fields, told)
    width = fields.whole("d_model")
    listed = input_scale_of(folder) if told.average_norm is None else None
    notes = () if listed is None else (listed.note,)
    known = None if listed is None else math.sqrt(width) / listed.scale
    scale = scale_of_input(fields.place, width, known, told)
    place = folder / WEIGHTS_FILE
    stored, sha256 = map_safetensors(place)
    tensors = renamed(place, stored, {**NAMES, LOG_THRESHOLD: "threshold"})
    if "threshold" in tensors:
        with np.errstate(over="ignore"):
            tensors["threshold"] = Matrix(np.exp(tensors["threshold"].whole()))
    about = About(
        form="jumprelu",
        model_id=model_id,
        tap=tap,
        input_scale=scale,
        decoder_norms=decoder_norms(fields, default=False),
    )
    return replace(build_sae(name, place, about, tensors, sha256), notes=notes)


def decoder_norms(fields: Fields, *, default: bool) -> DecoderNorms:
    """Return whether codes were chosen by how much they write."""
    return "select" if fields.flag("sparsity_include_decoder_norm", default) else "ignored"


def where(fields: Fields, told: SaeHints) -> tuple[str, Tap]:
    """Return model and tap of a file with `hook_point_in` and `hook_point_out`.

    Raises:
        ArtefactError: a transcoder, or a place that is not served.
    """
    hook = fields.text("hook_point_in")
    if fields.text("hook_point_out", hook) != hook:
        refuse(
            fields.place,
            "hook_point_out",
            repr(fields.raw["hook_point_out"]),
            repr(hook),
            TRANSCODER,
        )
    tap = tap_of(fields.place, "hook_point_in", hook, told)
    model = fields.text("model_name") if fields.has("model_name") and not told.model_id else None
    return agreed(fields.place, told, model, tap, remedy=SAY)
