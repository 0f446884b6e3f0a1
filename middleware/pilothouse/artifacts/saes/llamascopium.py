"""llamascopium (OpenMOSS): `config.json` and `sae_weights.safetensors`.

What `norm_activation` says is done to the input: `inference` nothing more, since it is folded into
the weights; `dataset-wise` a scaling to a mean length of sqrt(D), which the file has;
`token-wise` a scaling of each token to sqrt(D); `batch-wise` hangs on the batch and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.saes.autoencoder import Form, Normalisation, Sae
from pilothouse.artifacts.saes.build import About, build_sae, renamed
from pilothouse.artifacts.saes.fields import Fields, read_fields
from pilothouse.artifacts.saes.hints import SaeHints, scale_of_input
from pilothouse.artifacts.saes.llama_scope import (
    CONFIG_FILE,
    LOG_THRESHOLD,
    WEIGHTS_FILE,
    decoder_norms,
    where,
)
from pilothouse.artifacts.saes.mapped_file import Stored, map_safetensors
from pilothouse.artifacts.saes.matrix import Matrix

NAMES = {
    "W_E": "W_enc",
    "b_E": "b_enc",
    "W_D": "W_dec",
    "b_D": "b_dec",
}
THRESHOLDS = {
    LOG_THRESHOLD: "threshold",
    f"activation_function.{LOG_THRESHOLD}": "threshold",
}
FORMS: Mapping[str, Form] = {"relu": "relu", "jumprelu": "jumprelu", "topk": "topk"}
NORMALISATIONS: Mapping[str, Normalisation] = {
    "inference": "none",
    "dataset-wise": "none",
    "token-wise": "constant_norm",
}
NORM_PREFIX = "dataset_average_activation_norm."
OTHER_SAE = "convert it to inference mode with its own library, or use another SAE"


def load_llamascopium(name: str, folder: Path, told: SaeHints) -> Sae:
    """Read the SAE in a folder.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    fields = read_fields(folder / CONFIG_FILE)
    fields.never("use_glu_encoder", "its codes are products of two projections; use another SAE")
    model_id, tap = where(fields, told)
    act = fields.text("act_fn")
    if act not in FORMS:
        refuse(fields.place, "act_fn", repr(act), f"one of {sorted(FORMS)}", OTHER_SAE)
    place = folder / WEIGHTS_FILE
    stored, sha256 = map_safetensors(place)
    norms = {key: stored.pop(key) for key in list(stored) if key.startswith(NORM_PREFIX)}
    tensors = renamed(place, stored, NAMES | THRESHOLDS if act == "jumprelu" else NAMES)
    if "threshold" in tensors:
        with np.errstate(over="ignore"):
            tensors["threshold"] = Matrix(np.exp(tensors["threshold"].whole()))
    norm, scale = _normalisation(fields, told, norms)
    about = About(
        form=FORMS[act],
        model_id=model_id,
        tap=tap,
        k=fields.whole("top_k") if act == "topk" else None,
        decoder_norms=decoder_norms(fields, default=True),
        normalisation=norm,
        input_scale=scale,
    )
    return build_sae(name, place, about, tensors, sha256)


def _normalisation(fields: Fields, told: SaeHints, norms: Stored) -> tuple[Normalisation, float]:
    said = fields.text("norm_activation")
    if said not in NORMALISATIONS:
        refuse(
            fields.place,
            "norm_activation",
            repr(said),
            f"one of {sorted(NORMALISATIONS)}",
            OTHER_SAE,
        )
    if said != "dataset-wise":
        return NORMALISATIONS[said], 1.0
    stored = norms.get(NORM_PREFIX + fields.text("hook_point_in"))
    known = None if stored is None else float(stored.whole().reshape(-1)[0])
    return "none", scale_of_input(fields.place, fields.whole("d_model"), known, told)
