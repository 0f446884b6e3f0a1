"""SAELens 3 to 6: `cfg.json` and `sae_weights.safetensors`.

Before version 6 what the SAE was trained on stood beside the rest; now it is in `metadata`.
BatchTopK and Matryoshka are saved as JumpReLU.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pilothouse.model.artefact import refuse
from pilothouse.model.sae.autoencoder import (
    ALL_AT_ONCE,
    NO_PURSUIT,
    Form,
    Normalisation,
    Pursuit,
    Sae,
)
from pilothouse.model.sae.build import About, build_sae, filled
from pilothouse.model.sae.fields import CORRECT, Fields, read_fields
from pilothouse.model.sae.hook import tap_of
from pilothouse.model.sae.mapped import Stored, map_safetensors
from pilothouse.model.sae.polynomial import take_polynomial
from pilothouse.model.sae.told import Told, agreed, scale_of_input

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
FORMS: Mapping[str, Form] = {
    "standard": "relu", "jumprelu": "jumprelu", "gated": "gated", "topk": "topk",
    "abstopk": "abstopk", "matching_pursuit": "pursuit", "poly_topk": "topk",
    "poly_jumprelu": "jumprelu",
}  # fmt: skip
POLY = "poly_"
"""By which the architectures of PolySAE begin; the rest says how its codes are chosen."""
REFUSED: Mapping[str, str] = {
    "temporal": "its codes hang on the tokens before, through an attention of its own",
    "poly_batchtopk": "its codes hang on the batch; save it for inference, as poly_jumprelu",
    "poly_matryoshka": "its codes hang on the batch; save it for inference, as poly_jumprelu",
} | dict.fromkeys(
    ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"),
    "it reads at one place and writes at another",
)
NORMALISATIONS: Mapping[str, Normalisation] = {
    "none": "none", "expected_average_only_in": "none", "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm",
}  # fmt: skip
OTHER_SAE = "use an SAE of one of the architectures that are read"


def load_saelens(name: str, folder: Path, told: Told) -> Sae:
    """The SAE in a folder.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    fields = read_fields(folder / CONFIG_FILE)
    about = _about(fields, told)
    place = folder / WEIGHTS_FILE
    tensors, sha256 = map_safetensors(place)
    _drop_scaling(place, tensors)
    polynomial = None
    if fields.text("architecture", "standard").startswith(POLY):
        polynomial = take_polynomial(place, fields, tensors)
    if about.form == "pursuit" and not about.subtracts_decoder_bias and "b_dec" in tensors:
        # What is not taken off the input is not put on the output either.
        tensors["b_dec"] = filled(tensors["b_dec"].shape[0], 0.0)
    built = build_sae(name, place, about, tensors, sha256, polynomial)
    for field_name, size in (("d_in", built.width), ("d_sae", built.num_features)):
        if fields.whole(field_name) != size:
            refuse(fields.place, field_name, fields.whole(field_name),
                   f"{size} as {WEIGHTS_FILE} has", CORRECT)  # fmt: skip
    return built


def _about(fields: Fields, told: Told) -> About:
    trained = fields.group("metadata") if fields.has("metadata") else fields
    form, k = _form(fields)
    norm, scale = _normalisation(fields, told)
    hook = trained.text("hook_name" if trained.has("hook_name") else "hook_point")
    if trained.raw.get("hook_head_index") is not None:
        refuse(fields.place, "hook_head_index", trained.raw["hook_head_index"], "none",
               "use an SAE of all heads: a single head is no tap")  # fmt: skip
    reshape = fields.text("reshape_activations", "none")
    if reshape not in ("none", "hook_z"):
        refuse(fields.place, "reshape_activations", repr(reshape), "'none' or 'hook_z'", OTHER_SAE)
    model_id, tap = agreed(
        # TransformerLens has names of its own for models, so the operator's wins.
        fields.place, told, None if told.model_id else trained.text("model_name"),
        tap_of(fields.place, "hook_name", hook), remedy=CORRECT,
    )  # fmt: skip
    kwargs = trained.group("model_from_pretrained_kwargs")
    is_poly = fields.text("architecture", "standard").startswith(POLY)
    if form not in ALL_AT_ONCE or is_poly:
        fields.never("rescale_acts_by_decoder_norm", "only TopK chooses by the decoder's norms")
    return About(
        form=form, model_id=model_id, tap=tap, k=k, pursuit=_pursuit(fields),
        decoder_norms="scale" if fields.flag("rescale_acts_by_decoder_norm", False) else "ignored",
        normalisation=norm, input_scale=scale,
        subtracts_decoder_bias=fields.flag("apply_b_dec_to_input", True),
        is_centred=kwargs.flag("center_writing_weights", False),
    )  # fmt: skip


def _form(fields: Fields) -> tuple[Form, int | None]:
    architecture = fields.text("architecture", "standard")
    activation = fields.text("activation_fn_str", fields.text("activation_fn", "relu"))
    k: int | None = None
    if architecture == "standard" and activation == "topk":
        architecture, k = "topk", fields.group("activation_fn_kwargs").whole("k")
    elif architecture in ("topk", "abstopk", "poly_topk"):
        k = fields.whole("k")
    elif architecture == "matching_pursuit":
        k = fields.whole("max_iterations", fields.whole("d_in"))
    elif activation != "relu":
        refuse(fields.place, "activation_fn_str", repr(activation), "'relu' or 'topk'", OTHER_SAE)
    if architecture not in FORMS:
        why = REFUSED.get(architecture, "it is not known")
        refuse(fields.place, "architecture", f"{architecture!r}: {why}",
               f"one of {sorted(FORMS)}", OTHER_SAE)  # fmt: skip
    return FORMS[architecture], k


def _pursuit(fields: Fields) -> Pursuit:
    if fields.text("architecture", "standard") != "matching_pursuit":
        return NO_PURSUIT
    return Pursuit(
        residual_threshold=fields.number("residual_threshold", 1e-2),
        ends_on_repeat=fields.flag("stop_on_duplicate_support", True),
    )


def _normalisation(fields: Fields, told: Told) -> tuple[Normalisation, float]:
    said = fields.raw.get("normalize_activations")
    if isinstance(said, bool) or said is None:
        said = "expected_average_only_in" if said else "none"
    if said not in NORMALISATIONS:
        refuse(fields.place, "normalize_activations", repr(said), f"one of {[*NORMALISATIONS]}",
               "fold it into the weights with SAELens and save them again")  # fmt: skip
    width = fields.whole("d_in")
    if said != "expected_average_only_in":
        return NORMALISATIONS[said], 1.0
    return "none", scale_of_input(fields.place, width, None, told)


def _drop_scaling(place: Path, tensors: Stored) -> None:
    scaling = tensors.pop("scaling_factor", None)
    if scaling is not None and not np.allclose(scaling.whole(), 1.0):
        refuse(place, "scaling_factor", "numbers other than 1", "none, or ones",
               "fold the factors into W_dec and save the SAE again without them")  # fmt: skip
