"""A small configuration for any architecture that vLLM's registry names.

A class of transformers' (or of vLLM's own) with its numbers made small; where nobody has a class,
a Llama's. Names that a model asks for in vain are added from `ALIASES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

LAYERS = 4
HIDDEN = 128
HEADS = 4
HEAD_DIM = 32
SMALL: tuple[tuple[str, Any], ...] = (
    (r"(num_hidden_layers|n_layers?|num_layers|num_decoder_layers|depth|n_blocks?)", LAYERS),
    (r"(encoder|decoder|num_encoder|vision)_layers", LAYERS),
    (r"(hidden_size|n_embd|d_model|hidden_dim|embed_dim|model_dim|dim|embedding_size)", HIDDEN),
    (r"(word_embed_proj_dim|emb_dim|attention_hidden_size|lru_width)", HIDDEN),
    (r"(mamba_d_ssm)", 2 * HIDDEN),
    (r"(projection_dim|out_hidden_size|text_hidden_size|output_dim|projector_hidden_size)", HIDDEN),
    (r"(hidden_size_per_layer_input|altup_hidden)", 32),
    (r"(num_attention_heads|n_heads?|num_heads|attention_heads)", HEADS),
    (r"(encoder|decoder)_attention_heads", HEADS),
    (r"(num_key_value_heads|n_kv_heads|num_kv_heads|multi_query_group_num|kv_n_heads)", 2),
    (r"(swa_num_attention_heads)", HEADS),
    (r"(swa_num_key_value_heads|num_global_key_value_heads)", 2),
    (r"(head_dim|kv_channels|attention_head_dim|head_size|global_head_dim)", HEAD_DIM),
    (r"(swa_head_dim|swa_v_head_dim|attention_key_value_head_dim)", HEAD_DIM),
    (r"(qk_nope_head_dim|v_head_dim|qk_rope_head_dim)", HEAD_DIM),
    (r"(q_lora_rank|kv_lora_rank)", 64),
    (
        r"(\w*intermediate_size|ffn_dim|\w*ffn_hidden_size|n_inner|mlp_dim|d_ff|ffn_hidden_size)",
        128,
    ),
    (r"(encoder|decoder)_ffn_dim", 128),
    (r"(\w*num_experts|n_routed_experts|num_local_experts|moe_num_experts|n_experts)", 4),
    (r"(num_experts_per_tok\w*|moe_k|moe_topk|top_k_experts|moe_top_k|experts_per_token)", 2),
    (r"(num_experts_per_token|num_selected_experts|router_top_k|n_activated_experts)", 2),
    (r"(n_group|topk_group|num_expert_group|num_groups)", 1),
    (r"(first_k_dense_replace|moe_layer_start_index|num_dense_layers|first_dense_layers)", 1),
    (r"(n_shared_experts|num_shared_experts|moe_num_shared_experts)", 1),
    (r"(vocab_size|padded_vocab_size|vocab_size_per_layer_input|text_vocab_size)", 512),
    (r"(max_position_embeddings|n_positions|max_sequence_length|seq_length|n_ctx)", 512),
    (r"(mamba_n_heads|mamba_num_heads|n_mamba_heads|linear_num_value_heads)", HEADS),
    (r"(linear_num_key_heads)", 2),
    (
        r"(mamba_d_head|mamba_head_dim|linear_key_head_dim|linear_value_head_dim)",
        2 * HIDDEN // HEADS,
    ),
    (r"(mamba_d_state|state_size|ssm_state_size|mamba_dt_rank|time_step_rank)", 16),
    (r"(mamba_n_groups|n_groups|mamba_ngroups)", 1),
    (r"(attn_layer_period|full_attention_interval)", 2),
    (r"(attn_layer_offset)", 1),
    (r"(rotary_dim)", HEAD_DIM),
    (r"(expand)", 1),
    (r"(sliding_window\w*)", 64),
)
"""(what a key matches as a whole, its value): the first that matches; keys that are there only."""

WHERE_NONE = {
    "num_key_value_heads": HEADS,
    "head_dim": HEAD_DIM,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
}

DROPPED = {
    "architectures",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "auto_map",
    "_name_or_path",
    "output_attentions",
    "per_layer_config",
}

ALIASES: dict[str, Any] = {
    "num_layers": LAYERS,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "layer_norm_eps": 1e-6,
    "bias": False,
    "num_key_value_heads": 2,
    "head_dim": HEAD_DIM,
    "scale_depth": 1.4,
    "scale_emb": 12,
    "dim_model_base": 64,
    "kv_channels": HEAD_DIM,
    "attention_bias": False,
    "layernorm_epsilon": 1e-6,
    "layer_norm_epsilon": 1e-6,
    "padded_vocab_size": 512,
    "ffn_hidden_size": 128,
    "n_embed": HIDDEN,
    "attn_config": {},
    "tie_word_embeddings": False,
    "num_attention_groups": 2,
    "rotary_pct": 1.0,
    "partial_rotary_factor": 1.0,
    "route_norm": True,
    "route_scale": 1.0,
    "embedding_dropout": 0.0,
    "layer_group_size": 2,
    "activation_function": "silu",
    "query_pre_attn_scalar": 32,
    "decoder_sparse_step": 1,
    "n_routed_experts": 4,
    "block_dim": HIDDEN,
    "rotary_dim": HEAD_DIM,
    "use_embed_norm": False,
    "mla_scale_q_lora": False,
    "mla_scale_kv_lora": False,
    "rope_theta": 10000.0,
    "layer_types": ["full_attention"] * LAYERS,
    "hybrid_layer_pattern": [0] * LAYERS,
    "moe_layer_freq": 1,
    "q_lora_rank": None,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": HEAD_DIM,
    "qk_rope_head_dim": HEAD_DIM,
    "v_head_dim": HEAD_DIM,
    "num_local_experts": 4,
    "use_mup": False,
    "bskcn_tv": [1.0, 1.0],
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_inner": 128,
    "original_rope": True,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "score_func": "sigmoid",
    "score_function": "softmax",
    "scoring_func": "sigmoid",
    "n_shared_experts": 1,
    "interleaved_sliding_window": [None] * LAYERS,
    "bskcn_1": [1, 3],
    "bskcn_2": [2, 3],
    "bskcn_3": [1, 3],
    "bskcn_4": [2, 3],
    "zero_expert_type": "identity",
    "zero_expert_num": 1,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "use_bias": False,
    "use_qkv_bias": False,
    "norm_topk_prob": True,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


def small_config(architecture: str, sibling: str | None = None) -> tuple[Any, str]:
    """(configuration with this architecture, where its class is from).

    `sibling` is another architecture that the same vLLM class serves.
    """
    for name in (architecture, sibling):
        found = None if name is None else config_class(name)
        if found is not None:
            config = _shrunk(found)
            config.architectures = [architecture]
            return config, f"{found.__module__.split('.')[0]}'s {found.__name__}"
    from transformers import LlamaConfig

    config = _shrunk(LlamaConfig)
    config.architectures = [architecture]
    return config, "a Llama's, with aliases"


def config_class(architecture: str) -> Any | None:
    """The configuration class of an architecture, by transformers' tables or by name."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto
    from vllm.transformers_utils.config import _CONFIG_REGISTRY

    known = {
        model_type
        for table in dir(modeling_auto)
        if table.endswith("_MAPPING_NAMES")
        for model_type, names in getattr(modeling_auto, table).items()
        if architecture in (names if isinstance(names, tuple | list) else (names,))
    }
    if known:
        return CONFIG_MAPPING[max(known, key=lambda model_type: model_type.endswith("_text"))]
    stem = re.sub(r"(ForCausalLM|ForConditionalGeneration|LMHeadModel|Model)$", "", architecture)
    for registry in (_CONFIG_REGISTRY, CONFIG_MAPPING):
        for model_type in registry:
            if re.sub(r"\W|_", "", model_type) == re.sub(r"\W|_", "", stem).lower():
                return registry[model_type]
    return None


def _shrunk(config_type: Any) -> Any:
    config = config_type()
    raw = shrink(config.to_dict())
    return config_type(**raw)


def shrink(raw: dict[str, Any]) -> dict[str, Any]:
    """A configuration's dictionary with its numbers made small, and those inside it. Pure."""
    if not all(isinstance(key, str) for key in raw):
        return raw
    layers = next((raw[k] for k in _keys_of_layers(raw)), None)
    return {key: _small(key, value, layers) for key, value in raw.items() if key not in DROPPED}


def _small(key: str, value: Any, layers: Any) -> Any:
    if isinstance(value, dict):
        return value if key.startswith("rope") else shrink(value)
    if isinstance(value, list) and isinstance(layers, int) and len(value) == layers:
        return _both_kinds(value)
    if value is None:
        return WHERE_NONE.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0 if key in ("pad_token_id", "bos_token_id", "eos_token_id") and value else value
    if key.endswith("token_id"):
        return min(int(value), 2)
    for pattern, small in SMALL:
        if re.fullmatch(pattern, key):
            return small
    return value


def _both_kinds(values: list[Any]) -> list[Any]:
    """As many as there are layers, with every kind that occurs as far as they fit."""
    kinds = list(dict.fromkeys(v for v in values if not isinstance(v, list | dict)))
    if not kinds:
        return values[:LAYERS]
    return [kinds[i % len(kinds)] for i in range(LAYERS)]


def _keys_of_layers(raw: dict[str, Any]) -> Iterator[str]:
    return (key for key in raw if re.fullmatch(SMALL[0][0], key))
