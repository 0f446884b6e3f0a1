"""Where the parts of a decoder block are, for architectures known by name as vLLM 0.32 builds them.

A model class that is not here is found by structure (`discovery`). To add one, add a line:
names are relative to a decoder block. `docs/reference/architectures.md` has an example.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import PretrainedConfig

from pilothouse.errors import EngineError

Scale = Callable[[nn.Module, PretrainedConfig], float]
"""(block, text config) -> the factor on what attention and MLP add to the stream."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a decoder block are; every name is relative to the block.

    `attention_out` and `mlp_out` name the module whose output is added to the residual stream:
    the attention or MLP itself, or the norm behind it. `heads` and `neurons` name their output
    projections. `mid` names the module that receives the stream between the two; None where
    attention and MLP read the same input. None for a part means that the architecture has none.

    `deferred`: blocks hand on `(hidden, residual)` and the next norm adds the two. Where it is
    False a second value of the block's output is not used by the next block.
    `parallel_if` names flags of the config; with any of them set there is no `mid`.
    `transformers`: written for vLLM's Transformers backend and not for a model class of vLLM's.
    """

    blocks: str = "model.layers"
    attention_out: str | None = "self_attn"
    heads: str | None = "self_attn.o_proj"
    mid: str | None = "post_attention_layernorm"
    mlp_out: str | None = "mlp"
    neurons: str | None = "mlp.down_proj"
    deferred: bool = True
    parallel_if: tuple[str, ...] = ()
    scale: Scale | None = None
    transformers: bool = False


def _residual_multiplier(block: nn.Module, _: PretrainedConfig) -> float:
    return float(block.residual_multiplier)  # type: ignore[arg-type]


def _depth_scale(_: nn.Module, config: PretrainedConfig) -> float:
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
