"""The architectures that are known by name, as vLLM 0.32 builds them.

A model class that is not here is found by structure (`discovery`). To add one, add a line:
names are relative to a decoder block. `docs/reference/architectures.md` has an example.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from pilothouse.engine.hooks.layout import Layout
from pilothouse.errors import EngineError


def _residual_multiplier(block: nn.Module, _: Any) -> float:
    return float(block.residual_multiplier)  # type: ignore[arg-type]


def _depth_scale(_: nn.Module, config: Any) -> float:
    return float(config.scale_depth / math.sqrt(config.num_hidden_layers))


# hidden and residual apart, norms in front of attention and MLP.
_LLAMA = Layout()
# The same, with a norm behind each as well.
_GEMMA = Layout(
    attention_out="post_attention_layernorm",
    mid="pre_feedforward_layernorm",
    mlp_out="post_feedforward_layernorm",
)
# The names of OLMo 2 in transformers: norms only behind, nothing deferred.
_OLMO2 = Layout(
    attention_out="post_attention_layernorm",
    mid="mlp",
    mlp_out="post_feedforward_layernorm",
    deferred=False,
    transformers=True,
)

LAYOUTS: dict[str, Layout] = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Phi3ForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _LLAMA,
    "Qwen2MoeForCausalLM": _LLAMA,
    "Qwen3ForCausalLM": _LLAMA,
    "Qwen3MoeForCausalLM": _LLAMA,
    "GemmaForCausalLM": _LLAMA,
    "OlmoeForCausalLM": _LLAMA,
    "DeepseekForCausalLM": _LLAMA,
    "DeepseekV2ForCausalLM": _LLAMA,
    "DeepseekV3ForCausalLM": _LLAMA,
    "Glm4MoeForCausalLM": _LLAMA,
    "GptOssForCausalLM": Layout(
        blocks="model.layers", attention_out="attn", heads="attn.o_proj", neurons=None
    ),
    "MixtralForCausalLM": Layout(mlp_out="block_sparse_moe", neurons=None),
    "Gemma2ForCausalLM": _GEMMA,
    "Gemma3ForCausalLM": _GEMMA,
    "Glm4ForCausalLM": Layout(
        attention_out="post_self_attn_layernorm", mlp_out="post_mlp_layernorm"
    ),
    "GraniteForCausalLM": Layout(deferred=False, scale=_residual_multiplier),
    "MiniCPMForCausalLM": Layout(deferred=False, scale=_depth_scale),
    "StablelmForCausalLM": Layout(deferred=False),
    "CohereForCausalLM": Layout(mid=None, deferred=False),
    "GPT2LMHeadModel": Layout(
        blocks="transformer.h",
        attention_out="attn",
        heads="attn.c_proj",
        mid="ln_2",
        neurons="mlp.c_proj",
        deferred=False,
    ),
    "OPTForCausalLM": Layout(
        blocks="model.decoder.layers",
        heads="self_attn.out_proj",
        mid="final_layer_norm",
        mlp_out="fc2",
        neurons="fc2",
        deferred=False,
    ),
    "FalconForCausalLM": Layout(
        blocks="transformer.h",
        attention_out="self_attention",
        heads="self_attention.dense",
        neurons="mlp.dense_4h_to_h",
        deferred=False,
        parallel_if=("parallel_attn", "new_decoder_architecture"),
    ),
    "GPTNeoXForCausalLM": Layout(
        attention_out="attention",
        heads="attention.dense",
        neurons="mlp.dense_4h_to_h",
        deferred=False,
        parallel_if=("use_parallel_residual",),
        transformers=True,
    ),
    "Olmo2ForCausalLM": _OLMO2,
    "Olmo3ForCausalLM": _OLMO2,
}


def add_layout(architecture: str, layout: Layout) -> None:
    """Add an entry.

    Raises:
        EngineError: the architecture has one.
    """
    if architecture in LAYOUTS:
        raise EngineError(f"architecture {architecture} has an entry; change it instead")
    LAYOUTS[architecture] = layout
