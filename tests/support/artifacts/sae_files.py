"""SAE files in the layouts of other libraries, written by nothing that reads them.

Shapes: D width, M features.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.reference.sae import Book

WIDTH, FEATURES = 12, 40
NAME = "demo"


def book(form: str = "relu", seed: int = 0, **changes: Any) -> Book:
    """A random SAE in float32 numbers, of which about a third of the features are on."""
    draw = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        return draw.normal(size=shape).astype(np.float32).astype(np.float64)

    fields: dict[str, Any] = {
        "W_enc": normal(WIDTH, FEATURES),
        "W_dec": normal(FEATURES, WIDTH),
        "b_dec": normal(WIDTH),
        "b_enc": normal(FEATURES) - 1.0,
        "form": form,
    }
    if form == "jumprelu":
        fields["threshold"] = np.abs(normal(FEATURES))
    if form == "gated":
        fields |= {"b_mag": normal(FEATURES), "r_mag": 0.3 * normal(FEATURES)}
    if form in ("topk", "abstopk"):
        fields["k"] = 7
    if form == "top_afa":
        # Short enough that it takes some to reach the input's length.
        fields |= {"W_dec": 0.0625 * fields["W_dec"], "b_enc": np.zeros(FEATURES)}
    if form == "pursuit":
        rows = fields["W_dec"] / np.linalg.norm(fields["W_dec"], axis=1, keepdims=True)
        rows = rows.astype(np.float32).astype(np.float64)
        fields |= {"k": 8, "W_dec": rows, "W_enc": rows.T, "b_enc": np.zeros(FEATURES)}
        fields |= {"tolerance": 1.5, "ends_on_repeat": True}
    return Book(**(fields | changes))


def polynomial(seed: int = 4, ranks: tuple[int, int, int] = (10, 6, 3)) -> dict[str, Any]:
    """A PolySAE's factors, of numbers that make a twentieth or so of the linear part."""
    draw = np.random.default_rng(seed)
    made: dict[str, Any] = {"lambda2": -0.5, "lambda3": 0.25}
    for number, rank in enumerate(ranks, 1):
        made[f"U{number}"] = 0.1 * draw.normal(size=(FEATURES, rank))
        made[f"C{number}"] = draw.normal(size=(WIDTH, rank))
    return {
        name: np.asarray(each).astype(np.float32).astype(np.float64) for name, each in made.items()
    }


def poly_book(form: str, **changes: Any) -> Book:
    """A random PolySAE."""
    factors = polynomial()
    linear = factors["U1"] @ factors["C1"].T
    return book(form, poly=factors, W_dec=linear, **changes)


def hidden(count: int = 32, seed: int = 1) -> Any:
    """A stream [count, D] in float64."""
    return np.random.default_rng(seed).normal(size=(count, WIDTH)) * 2.0


def save(place: Path, arrays: dict[str, Any], dtype: Any = np.float32) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: np.ascontiguousarray(np.asarray(v).astype(dtype)) for k, v in arrays.items()}, place
    )


def write_json(place: Path, fields: Any) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(fields))


def lens_tensors(made: Book) -> dict[str, Any]:
    """A book's tensors under SAELens' names."""
    tensors = {"W_enc": made.W_enc, "W_dec": made.W_dec, "b_dec": made.b_dec}
    if made.form == "gated":
        return tensors | {"b_gate": made.b_enc, "b_mag": made.b_mag, "r_mag": made.r_mag}
    if made.form == "pursuit":
        return {"W_dec": made.W_dec, "b_dec": made.b_dec}
    tensors["b_enc"] = made.b_enc
    if made.poly is not None:
        lengths = np.linalg.norm(made.W_dec, axis=1, keepdims=True)
        tensors |= made.poly | {"W_dec": made.W_dec / lengths}
    return tensors | ({"threshold": made.threshold} if made.form == "jumprelu" else {})


def saelens(folder: Path, made: Book, **changes: Any) -> Path:
    """A folder as SAELens 6 writes it."""
    names = {"relu": "standard", "pursuit": "matching_pursuit"}
    config: dict[str, Any] = {
        "architecture": names.get(made.form, made.form),
        "d_in": WIDTH,
        "d_sae": FEATURES,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": made.subtracts_b_dec,
        "normalize_activations": {
            "none": "none",
            "layer_norm": "layer_norm",
            "constant_norm": "constant_norm_rescale",
        }[made.norm],
        "reshape_activations": "none",
        "metadata": {
            "model_name": NAME,
            "hook_name": "blocks.4.hook_resid_post",
            "hook_head_index": None,
            "sae_lens_version": "6.12.1",
            "prepend_bos": True,
        },
    }
    if made.form == "pursuit":
        config |= {
            "max_iterations": made.k,
            "residual_threshold": made.tolerance,
            "stop_on_duplicate_support": made.ends_on_repeat,
        }
    elif made.k:
        config |= {"k": made.k, "rescale_acts_by_decoder_norm": made.norms == "scale"}
    if made.poly is not None:
        config |= {"architecture": f"poly_{made.form}", "poly_order": 3, "shared_u": False}
    write_json(folder / "cfg.json", config | changes)
    save(folder / "sae_weights.safetensors", lens_tensors(made))
    return folder


def saelens_3(folder: Path, made: Book, **changes: Any) -> Path:
    """A folder as SAELens 3 to 5 wrote it: everything at the top."""
    config: dict[str, Any] = {
        "architecture": "gated" if made.form == "gated" else "standard",
        "d_in": WIDTH,
        "d_sae": FEATURES,
        "dtype": "torch.float32",
        "model_name": NAME,
        "hook_point": "blocks.4.hook_resid_post",
        "hook_point_layer": 4,
        "hook_point_head_index": None,
        "apply_b_dec_to_input": made.subtracts_b_dec,
        "activation_fn_str": "topk" if made.form == "topk" else "relu",
        "activation_fn_kwargs": {"k": made.k} if made.form == "topk" else {},
        "normalize_activations": False,
        "finetuning_scaling_factor": False,
    }
    write_json(folder / "cfg.json", config | changes)
    save(
        folder / "sae_weights.safetensors",
        lens_tensors(made) | {"scaling_factor": np.ones(FEATURES)},
    )
    return folder


def gemma_scope(folder: Path, made: Book, **arrays: Any) -> Path:
    """Gemma Scope's archive."""
    place = folder / "layer_4" / "width_16k" / "average_l0_82"
    place.mkdir(parents=True)
    tensors = {k: v.astype(np.float32) for k, v in (lens_tensors(made)).items()}
    np.savez(place / "params.npz", **(tensors | arrays))
    return place


def gemma_scope_2(folder: Path, made: Book, **changes: Any) -> Path:
    """A folder of Gemma Scope 2."""
    config = {
        "architecture": "jump_relu",
        "model_name": NAME,
        "width": FEATURES,
        "hf_hook_point_in": "model.layers.4.output",
        "hf_hook_point_out": None,
    }
    write_json(folder / "config.json", config | changes)
    tensors = lens_tensors(made)
    tensors |= {"w_enc": tensors.pop("W_enc"), "w_dec": tensors.pop("W_dec")}
    save(folder / "params.safetensors", tensors)
    return folder


def llama_scope(folder: Path, made: Book, norm: float, threshold: float, **changes: Any) -> Path:
    """A folder of Llama Scope."""
    config = {
        "d_model": WIDTH,
        "d_sae": FEATURES,
        "hook_point_in": "blocks.4.hook_resid_post",
        "hook_point_out": "blocks.4.hook_resid_post",
        "jump_relu_threshold": threshold,
        "dataset_average_activation_norm": {"in": norm, "out": norm},
    }
    write_json(folder / "hyperparams.json", config | changes)
    save(folder / "checkpoints" / "final.safetensors", linear_tensors(made))
    return folder


def linear_tensors(made: Book) -> dict[str, Any]:
    """As torch's linear layers are saved."""
    return {
        "encoder.weight": made.W_enc.T,
        "encoder.bias": made.b_enc,
        "decoder.weight": made.W_dec.T,
        "decoder.bias": made.b_dec,
    }


def llama_scope_r1(folder: Path, made: Book, **changes: Any) -> Path:
    """A folder of the distilled R1 series."""
    config = {
        "d_model": WIDTH,
        "expansion_factor": 4,
        "hook_point_in": "blocks.4.hook_resid_post",
        "model_name": NAME,
    }
    write_json(folder / "config.json", config | changes)
    assert made.threshold is not None
    tensors = linear_tensors(made) | {"log_jumprelu_threshold": np.log(made.threshold)}
    save(folder / "sae_weights.safetensors", tensors)
    return folder


def llamascopium(folder: Path, made: Book, norm: float = 5.0, **changes: Any) -> Path:
    """A folder of llamascopium."""
    config: dict[str, Any] = {
        "d_model": WIDTH,
        "act_fn": made.form,
        "top_k": made.k or 50,
        "model_name": NAME,
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": made.norms == "select",
        "hook_point_in": "blocks.4.hook_resid_post",
        "hook_point_out": "blocks.4.hook_resid_post",
        "use_glu_encoder": False,
        "expansion_factor": 4,
    }
    config |= changes
    write_json(folder / "config.json", config)
    tensors = {"W_E": made.W_enc, "b_E": made.b_enc, "W_D": made.W_dec, "b_D": made.b_dec}
    if made.form == "jumprelu":
        assert made.threshold is not None
        tensors["activation_function.log_jumprelu_threshold"] = np.log(made.threshold)
    tensors["dataset_average_activation_norm.blocks.4.hook_resid_post"] = np.array(norm)
    save(folder / "sae_weights.safetensors", tensors)
    return folder


def sparsify(folder: Path, made: Book, **changes: Any) -> Path:
    """A folder of sparsify; named by its hook point."""
    place = folder / "layers.4"
    config = {
        "d_in": WIDTH,
        "k": made.k,
        "num_latents": FEATURES,
        "expansion_factor": 32,
        "activation": "topk",
        "transcode": False,
        "skip_connection": False,
        "normalize_decoder": True,
        "signed": False,
    }
    write_json(place / "cfg.json", config | changes)
    tensors = {
        "encoder.weight": made.W_enc.T,
        "encoder.bias": made.b_enc,
        "W_dec": made.W_dec,
        "b_dec": made.b_dec,
    }
    save(place / "sae.safetensors", tensors)
    return place


def qwen_scope(folder: Path, made: Book) -> Path:
    """A folder of Qwen-Scope after its conversion."""
    place = folder / f"SAE-Res-Demo-W40-L0_{made.k}"
    tensors = {"W_enc": made.W_enc.T, "W_dec": made.W_dec.T}
    save(place / "layer4.sae.safetensors", tensors | {"b_enc": made.b_enc, "b_dec": made.b_dec})
    return place


def dictionary_learning(folder: Path, made: Book, kind: str, **changes: Any) -> Path:
    """A folder of dictionary_learning after its conversion."""
    trainer: dict[str, Any] = {
        "dict_class": kind,
        "layer": 4,
        "lm_name": NAME,
        "activation_dim": WIDTH,
        "dict_size": FEATURES,
        "k": made.k or 9,
        "submodule_name": "resid_post_layer_4",
    }
    write_json(folder / "config.json", {"trainer": trainer | changes, "buffer": {"ctx_len": 128}})
    tensors = linear_tensors(made)
    bias = tensors.pop("decoder.bias")
    if kind == "AutoEncoder":
        tensors["bias"] = bias
    elif kind == "GatedAutoEncoder":
        tensors.pop("encoder.bias")
        tensors |= {
            "decoder_bias": bias,
            "r_mag": made.r_mag,
            "gate_bias": made.b_enc,
            "mag_bias": made.b_mag,
        }
    elif kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        tensors = lens_tensors(made)
    else:
        tensors["b_dec"] = bias
    if kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE", "AutoEncoderTopK"):
        first = -1.0 if made.threshold is None else made.threshold[0]
        tensors["threshold"] = np.array(first)
    save(folder / "ae.safetensors", tensors)
    return folder


def itda(folder: Path, made: Book, **changes: Any) -> Path:
    """A folder of ITDA after its conversion."""
    fields: dict[str, Any] = {
        "wandb_name": "ITDA_layer_4",
        "layer": 4,
        "lm_name": NAME,
        "activation_dim": WIDTH,
        "k": made.k,
        "loss_threshold": 0.1,
        "submodule_name": None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{key}: {json.dumps(value)}" for key, value in (fields | changes).items()]
    (folder / "metadata.yaml").write_text("\n".join(lines))
    save(folder / "atoms.safetensors", {"atoms": made.W_dec})
    return folder


def top_afa(folder: Path, made: Book, **changes: Any) -> Path:
    """A folder of top-AFA after its conversion."""
    config: dict[str, Any] = {
        "sae_type": "topafa",
        "model_name": NAME,
        "hook_point": "blocks.4.hook_resid_post",
        "act_size": WIDTH,
        "dict_size": FEATURES,
        "top_k": 32,
        "dtype": "torch.float32",
        "input_unit_norm": made.norm == "layer_norm",
    }
    write_json(folder / "config.json", config | changes)
    save(folder / "sae.safetensors", lens_tensors(made))
    return folder
