"""SAELens 1 to 6: `cfg.json` and `sae_weights.safetensors`, of a finished SAE or of a checkpoint.

Fields moved between versions; they are looked for where each version had them. Before version 6
what the SAE was trained on stood beside the rest, later in `metadata`; a runner's own file has the
SAE's fields in `sae`. TopK was an activation of any architecture, with k in its arguments, before
it was one itself. BatchTopK and Matryoshka are served as JumpReLU, which is how they are saved for
inference; a checkpoint of their training has one threshold for all features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.saes.autoencoder import (
    ALL_AT_ONCE,
    NO_PURSUIT,
    Form,
    Normalisation,
    Pursuit,
    Sae,
)
from pilothouse.artifacts.saes.build import About, build_sae, filled
from pilothouse.artifacts.saes.centring import centring_of
from pilothouse.artifacts.saes.fields import CORRECT, Fields, read_fields, tap_of
from pilothouse.artifacts.saes.hints import SaeHints, Where, agreed, scale_of_input
from pilothouse.artifacts.saes.mapped_file import FETCH, Stored, map_safetensors
from pilothouse.artifacts.saes.matrix import Matrix
from pilothouse.artifacts.saes.polynomial import take_polynomial
from pilothouse.artifacts.saes.releases import Release, input_scale_of, release_of

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
FORMS: Mapping[str, Form] = {
    "standard": "relu",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "topk": "topk",
    "abstopk": "abstopk",
    "matching_pursuit": "pursuit",
    "poly_topk": "topk",
    "poly_jumprelu": "jumprelu",
}
BATCHED = ("batchtopk", "batch_topk", "matryoshka", "matryoshka_batchtopk")
"""In training a token's codes hang on its batch; at inference a threshold takes its place."""
TRAINED_ON = (
    "model_name",
    "hook_name",
    "hf_hook_name",
    "hook_head_index",
    "model_from_pretrained_kwargs",
    "sae_lens_version",
)
"""What version 6 has in `metadata`."""
HOOKS = ("hook_name", "hook_point", "hf_hook_name")
POLY = "poly_"
"""The beginning of the architectures of PolySAE; the rest says how codes are chosen."""
REFUSED: Mapping[str, str] = {
    "temporal": "its codes hang on the tokens before, through an attention of its own",
    "poly_batchtopk": "its codes hang on the batch; save it for inference, as poly_jumprelu",
    "poly_matryoshka": "its codes hang on the batch; save it for inference, as poly_jumprelu",
} | dict.fromkeys(
    ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"),
    "it reads at one place and writes at another",
)
NORMALISATIONS: Mapping[str, Normalisation] = {
    "none": "none",
    "expected_average_only_in": "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm",
}
OTHER_SAE = "use an SAE of one of the architectures that are read"


def load_saelens(name: str, folder: Path, told: SaeHints) -> Sae:
    """Read the SAE in a folder.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    fields = _flattened(read_fields(folder / CONFIG_FILE))
    place = folder / WEIGHTS_FILE
    tensors, sha256 = map_safetensors(place)
    is_folded = _as_served(place, fields, tensors)
    about, notes = _about(folder, fields, told, tensors, is_folded)
    _drop_scaling(place, tensors)
    polynomial = None
    if fields.text("architecture", "standard").startswith(POLY):
        polynomial = take_polynomial(place, fields, tensors)
    if about.form == "pursuit" and not about.subtracts_decoder_bias and "b_dec" in tensors:
        # What is not taken off the input is not put on the output either.
        tensors["b_dec"] = filled(tensors["b_dec"].shape[0], 0.0)
    numbers = f"{sha256} folded" if is_folded else sha256
    built = build_sae(name, place, about, tensors, numbers, polynomial)
    for field_name, size in (("d_in", built.width), ("d_sae", built.num_features)):
        if fields.whole(field_name) != size:
            refuse(
                fields.place,
                field_name,
                fields.whole(field_name),
                f"{size} as {WEIGHTS_FILE} has",
                CORRECT,
            )
    return replace(built, notes=notes)


def _flattened(fields: Fields) -> Fields:
    """Lift all fields to the top: a runner has some in `sae`, version 6 some in `metadata`."""
    raw = dict(fields.raw)
    raw |= {key: each for key, each in fields.group("sae").raw.items() if each is not None}
    trained_on = Fields(fields.place, raw).group("metadata")
    raw |= {key: trained_on.raw[key] for key in TRAINED_ON if trained_on.has(key)}
    return Fields(fields.place, raw)


def _as_served(place: Path, fields: Fields, tensors: Stored) -> bool:
    """Turn tensors of a training's checkpoint into those of inference; whether norms were folded.

    Raises:
        ArtefactError: a threshold that is not one number, or not finite.
    """
    if "log_threshold" in tensors:
        with np.errstate(over="ignore"):
            tensors["threshold"] = Matrix(np.exp(tensors.pop("log_threshold").whole()))
    if "topk_threshold" not in tensors or "b_enc" not in tensors:
        return False
    shared = tensors.pop("topk_threshold").whole().reshape(-1)
    if shared.size != 1 or not np.isfinite(shared).all():
        refuse(place, "topk_threshold", f"{shared.size} numbers", "one finite number", FETCH)
    tensors["threshold"] = filled(tensors["b_enc"].shape[0], float(shared[0]))
    folds = fields.flag("rescale_acts_by_decoder_norm", False)
    if folds:
        _fold_norms(place, tensors)
    return folds


def _fold_norms(place: Path, tensors: Stored) -> None:
    """Put the lengths of the decoder's rows into the encoder, as saving for inference does."""
    encoder, decoder, bias = (tensors.get(each) for each in ("W_enc", "W_dec", "b_enc"))
    if encoder is None or decoder is None or bias is None or len(decoder.shape) != 2:
        return
    if encoder.shape != decoder.shape[::-1] or bias.shape != decoder.shape[:1]:
        return
    norms_M = decoder.row_lengths()
    if not (norms_M > 0).all():
        refuse(place, "W_dec", "rows of zeros", "rows whose lengths the codes hang on", FETCH)
    tensors["W_enc"] = Matrix((encoder.whole() * norms_M).astype(np.float32))
    tensors["b_enc"] = Matrix(bias.whole() * norms_M)
    tensors["W_dec"] = Matrix((decoder.whole() / norms_M[:, None]).astype(np.float32))


def _about(
    folder: Path, fields: Fields, told: SaeHints, tensors: Stored, is_folded: bool
) -> tuple[About, tuple[str, ...]]:
    release = release_of(folder)
    form, k = _form(fields, tensors)
    norm, scale, notes = _normalisation(folder, fields, told, release)
    for name in ("hook_head_index", "hook_point_head_index"):
        if fields.raw.get(name) is not None:
            refuse(
                fields.place,
                name,
                fields.raw[name],
                "none",
                "use an SAE of all heads: a single head is no tap",
            )
    reshape = fields.text("reshape_activations", "none")
    if reshape not in ("none", "hook_z"):
        refuse(fields.place, "reshape_activations", repr(reshape), "'none' or 'hook_z'", OTHER_SAE)
    model_id, tap = agreed(
        # TransformerLens has names of its own for models, so the operator's wins.
        fields.place,
        told,
        None if told.model_id else fields.text("model_name"),
        _where(fields, told),
        remedy=CORRECT,
    )
    is_poly = fields.text("architecture", "standard").startswith(POLY)
    if (form not in ALL_AT_ONCE or is_poly) and not is_folded:
        fields.never("rescale_acts_by_decoder_norm", "only TopK chooses by the decoder's norms")
    scales = form in ALL_AT_ONCE and fields.flag("rescale_acts_by_decoder_norm", False)
    centring = centring_of(fields, told, release, tap.site, norm)
    about = About(
        form=form,
        model_id=model_id,
        tap=tap,
        k=k,
        pursuit=_pursuit(fields),
        decoder_norms="scale" if scales else "ignored",
        normalisation=norm,
        input_scale=scale,
        subtracts_decoder_bias=fields.flag("apply_b_dec_to_input", True),
        is_centred=centring.is_centred,
    )
    return about, (*notes, *centring.notes)


def _where(fields: Fields, told: SaeHints) -> Where:
    """Return the tap; older files have the layer apart from the hook's name, or twice."""
    name = next((each for each in HOOKS if fields.has(each)), HOOKS[0])
    hook = fields.text(name)
    if "{layer}" in hook:
        layer = fields.raw.get("hook_layer", fields.raw.get("hook_point_layer"))
        hook = hook.replace("{layer}", str(layer))
    return tap_of(fields.place, name, hook, told)


def _form(fields: Fields, tensors: Stored) -> tuple[Form, int | None]:
    architecture = fields.text("architecture", "standard")
    activation = fields.text("activation_fn_str", fields.text("activation_fn", "relu"))
    if architecture in BATCHED and "threshold" in tensors:
        return "jumprelu", None
    if activation == "topk" and architecture in (*BATCHED, "standard", "topk"):
        # As the library reads its own older files, whatever they call the architecture.
        return "topk", _k(fields)
    if architecture in BATCHED:
        refuse(
            fields.place,
            "architecture",
            f"{architecture!r} without a threshold",
            f"`threshold` or `topk_threshold` in {WEIGHTS_FILE}",
            "its codes hang on the batch; save it for inference with SAELens",
        )
    if architecture not in FORMS:
        why = REFUSED.get(architecture, "it is not known")
        refuse(
            fields.place,
            "architecture",
            f"{architecture!r}: {why}",
            f"one of {sorted({*FORMS, *BATCHED})}",
            OTHER_SAE,
        )
    if architecture in ("topk", "abstopk", "poly_topk"):
        return FORMS[architecture], _k(fields)
    if architecture == "matching_pursuit":
        return "pursuit", fields.whole("max_iterations", fields.whole("d_in"))
    if activation != "relu":
        refuse(
            fields.place,
            "activation_fn_str",
            f"{activation!r} in {architecture!r}",
            "'relu' there",
            OTHER_SAE,
        )
    return FORMS[architecture], None


def _k(fields: Fields) -> int:
    """Return how many codes are on: a field of its own, or an argument of the activation before."""
    said = {
        name: each
        for name, each in (
            ("k", fields.raw.get("k")),
            ("activation_fn_kwargs.k", fields.group("activation_fn_kwargs").raw.get("k")),
        )
        if each is not None
    }
    if not said or len(set(map(repr, said.values()))) > 1:
        refuse(
            fields.place,
            "k",
            said or "nothing, nor `activation_fn_kwargs.k`",
            "one whole number of features that are on",
            CORRECT,
        )
    [(name, k), *_] = said.items()
    if isinstance(k, float) and k.is_integer():
        k = int(k)
    return Fields(fields.place, {name: k}).whole(name)


def _pursuit(fields: Fields) -> Pursuit:
    if fields.text("architecture", "standard") != "matching_pursuit":
        return NO_PURSUIT
    return Pursuit(
        residual_threshold=fields.number("residual_threshold", 1e-2),
        ends_on_repeat=fields.flag("stop_on_duplicate_support", True),
    )


def _normalisation(
    folder: Path, fields: Fields, told: SaeHints, release: Release | None
) -> tuple[Normalisation, float, tuple[str, ...]]:
    said, notes = fields.raw.get("normalize_activations"), []
    if isinstance(said, bool) or said is None:
        said = "expected_average_only_in" if said else "none"
    if release is not None and release.normalise not in (None, said):
        notes.append(
            f"normalize_activations is {release.normalise!r} by SAELens' table for "
            f"{release.name}; the file says {said!r}"
        )
        said = release.normalise
    if said not in NORMALISATIONS:
        refuse(
            fields.place,
            "normalize_activations",
            repr(said),
            f"one of {[*NORMALISATIONS]}",
            "fold it into the weights with SAELens and save them again",
        )
    if said != "expected_average_only_in":
        return NORMALISATIONS[said], 1.0, tuple(notes)
    width, listed = fields.whole("d_in"), input_scale_of(folder)
    if told.average_norm is None and listed is not None:
        return "none", listed.scale, (*notes, listed.note)
    return "none", scale_of_input(fields.place, width, None, told), tuple(notes)


def _drop_scaling(place: Path, tensors: Stored) -> None:
    scaling = tensors.pop("scaling_factor", None)
    if scaling is not None and not np.allclose(scaling.whole(), 1.0):
        refuse(
            place,
            "scaling_factor",
            "numbers other than 1",
            "none, or ones",
            "fold the factors into W_dec and save the SAE again without them",
        )
