"""Which matrices write to the stream, by the model's type, and how a constant can be held there.

Only models whose attention and MLP end in one matrix with nothing behind it: where a norm or a
router stands behind (Gemma 2, OLMo 2, mixtures of experts) no weight edit is what the tap does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pilothouse.artifacts.folder import refuse

Biases = Literal["there", "as llama", "none"]


@dataclass(frozen=True, slots=True)
class Writers:
    """Names of a model's matrices.

    `biases`: `there` as they are; `as llama` in the architecture of Llama, which computes the same
    and has biases that a configuration turns on; `none` where vLLM has no room for any.
    `is_transposed`: matrices are [in, out]. `shift` is the table that a constant for every token
    can be added to, if one has a row for each.
    """

    block: str
    attention: str
    mlp: str
    tables: tuple[str, ...]
    biases: Biases
    attention_parts: tuple[str, ...] = ()
    mlp_parts: tuple[str, ...] = ()
    is_transposed: bool = False
    shift: str | None = None
    parallel: str | None = None
    """Field of the configuration that says that attention and MLP read the same stream."""
    lora: bool = True
    lora_tables: bool = True
    """Whether vLLM takes adapters of the embedding."""


_LLAMA: dict[str, Any] = {
    "block": "model.layers.{}",
    "attention": "self_attn.o_proj",
    "mlp": "mlp.down_proj",
    "tables": ("model.embed_tokens",),
    "shift": "model.embed_tokens",
    "attention_parts": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp_parts": ("mlp.gate_proj", "mlp.up_proj"),
}

WRITERS: Mapping[str, Writers] = {
    "llama": Writers(**_LLAMA, biases="as llama"),
    "mistral": Writers(**_LLAMA, biases="as llama", lora_tables=False),
    "qwen2": Writers(**_LLAMA, biases="as llama", lora_tables=False),
    "qwen3": Writers(**_LLAMA, biases="none"),
    "phi3": Writers(**_LLAMA, biases="none", lora_tables=False),
    "gpt2": Writers(
        block="transformer.h.{}",
        attention="attn.c_proj",
        mlp="mlp.c_proj",
        tables=("transformer.wte", "transformer.wpe"),
        shift="transformer.wpe",
        biases="there",
        is_transposed=True,
        lora=False,
    ),
    "gpt_neox": Writers(
        block="gpt_neox.layers.{}",
        attention="attention.dense",
        mlp="mlp.dense_4h_to_h",
        tables=("gpt_neox.embed_in",),
        shift="gpt_neox.embed_in",
        biases="there",
        parallel="use_parallel_residual",
        lora=False,
    ),
}
"""What writes to the stream, by `model_type` of config.json."""


def writers_of(place: object, config: Mapping[str, Any]) -> Writers:
    """Return the matrices of a model.

    Raises:
        ArtefactError: a type that is not known, or quantised weights.
    """
    model_type = config.get("model_type")
    if model_type not in WRITERS:
        refuse(
            place,
            "model_type",
            repr(model_type),
            f"one of {sorted(WRITERS)}",
            "steer it at run time: its writers end in a norm or a router, or are not known",
        )
    if config.get("quantization_config"):
        refuse(
            place,
            "quantization_config",
            "quantised weights",
            "weights in a float type",
            "bake into the weights before they are quantised",
        )
    return WRITERS[str(model_type)]


def as_llama(place: object, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same model as a Llama with biases.

    Raises:
        ArtefactError: it has something that Llama has not.
    """
    windowed = config.get("model_type") == "mistral" or config.get("use_sliding_window")
    if config.get("sliding_window") and windowed:
        refuse(
            place,
            "sliding_window",
            config["sliding_window"],
            "none, to hold a constant",
            "steer it at run time: vLLM's class of this model has no bias",
        )
    return {
        **config,
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": True,
        "mlp_bias": True,
    }
