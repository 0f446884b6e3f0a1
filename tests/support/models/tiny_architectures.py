"""Random-weight models of each supported architecture, made in a second.

Heads are 32 wide: the CPU attention kernels take no less.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CohereConfig,
    DeepseekV2Config,
    DeepseekV3Config,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    Glm4Config,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    StableLmConfig,
)

from tests.support.models.plain_transformers import causal_class

VOCABULARY = 256
D_MODEL = 64
NUM_LAYERS = 4
MAX_POSITIONS = 512

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": D_MODEL,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": MAX_POSITIONS,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GATED: dict[str, Any] = _COMMON | {
    "intermediate_size": 128,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "tie_word_embeddings": False,
}


_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_DEEPSEEK: dict[str, Any] = (
    _GATED
    | _EXPERTS
    | {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "first_k_dense_replace": NUM_LAYERS,
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": 32,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 64,
        "v_head_dim": 32,
        "head_dim": 64,
        "topk_method": "greedy",
    }
)
_FALCON: dict[str, Any] = _COMMON | {"multi_query": False, "alibi": False, "bias": False}


def architectures() -> dict[str, PretrainedConfig]:
    """Name -> configuration."""
    return _like_llama() | _with_own_blocks()


def _like_llama() -> dict[str, PretrainedConfig]:
    """Norm, attention, norm, gated MLP."""
    return {
        "llama": LlamaConfig(**_GATED),
        "mistral": MistralConfig(**(_GATED | {"sliding_window": None})),
        "mixtral": MixtralConfig(**(_GATED | {"num_local_experts": 4, "num_experts_per_tok": 2})),
        "phi3": Phi3Config(**_GATED),
        "qwen2": Qwen2Config(**_GATED),
        "qwen3": Qwen3Config(**_GATED),
        "qwen3_moe": Qwen3MoeConfig(
            **_GATED, **_EXPERTS, num_experts=4, mlp_only_layers=[2], decoder_sparse_step=1
        ),
        "deepseek_v2": DeepseekV2Config(**_DEEPSEEK),
        "deepseek_v3": DeepseekV3Config(**(_DEEPSEEK | {"topk_method": "noaux_tc"})),
        "stablelm": StableLmConfig(**_GATED, partial_rotary_factor=0.5),
        "granite": GraniteConfig(
            **_GATED,
            residual_multiplier=0.3,
            embedding_multiplier=3.0,
            logits_scaling=2.0,
            attention_multiplier=0.2,
        ),
    }


def _with_own_blocks() -> dict[str, PretrainedConfig]:
    """Other norms, parallel attention and MLP, other names."""
    return {
        "gemma2": Gemma2Config(
            **(_GATED | {"query_pre_attn_scalar": 32, "tie_word_embeddings": True})
        ),
        "gemma3": Gemma3TextConfig(**(_GATED | {"query_pre_attn_scalar": 32})),
        "glm4": Glm4Config(**_GATED, partial_rotary_factor=0.5),
        "olmo2": Olmo2Config(**_GATED),
        "cohere": CohereConfig(**(_GATED | {"tie_word_embeddings": True}), logit_scale=0.5),
        "gpt2": GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=D_MODEL,
            n_layer=NUM_LAYERS,
            n_head=2,
            n_positions=MAX_POSITIONS,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        ),
        "opt": OPTConfig(**(_COMMON | {"ffn_dim": 128, "word_embed_proj_dim": D_MODEL})),
        "gpt_neox": GPTNeoXConfig(**_COMMON, intermediate_size=128),
        "gpt_neox_sequential": GPTNeoXConfig(
            **_COMMON, intermediate_size=128, use_parallel_residual=False
        ),
        "falcon": FalconConfig(**_FALCON, parallel_attn=True, new_decoder_architecture=False),
        "falcon_sequential": FalconConfig(
            **(_FALCON | {"bias": True}), parallel_attn=False, new_decoder_architecture=False
        ),
    }


def make_architecture(
    folder: Path, name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Path:
    """Write a model to `folder`, and return it."""
    torch.manual_seed(seed)
    config = architectures()[name]
    model = causal_class(config)._from_config(config).float().eval()
    # Wider weights than the usual initialisation, so that greedy answers are not ties and every
    # block matters.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4.0)
    model.to(dtype).save_pretrained(folder)
    return folder
