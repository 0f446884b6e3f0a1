"""Random-weight models of each supported architecture, made in a second.

Heads are 32 wide: the CPU attention kernels take no less.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen3Config,
)

VOCABULARY = 256
D_MODEL = 64
NUM_LAYERS = 4
MAX_POSITIONS = 512

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": D_MODEL, "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 2, "max_position_embeddings": MAX_POSITIONS,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_GATED: dict[str, Any] = _COMMON | {
    "intermediate_size": 128, "num_key_value_heads": 2, "head_dim": 32,
    "tie_word_embeddings": False,
}  # fmt: skip


def architectures() -> dict[str, PretrainedConfig]:
    """Name -> configuration."""
    return {
        "llama": LlamaConfig(**_GATED),
        "qwen3": Qwen3Config(**_GATED),
        "gemma3": Gemma3TextConfig(**(_GATED | {"query_pre_attn_scalar": 32})),
        "gpt2": GPT2Config(
            vocab_size=VOCABULARY, n_embd=D_MODEL, n_layer=NUM_LAYERS, n_head=2,
            n_positions=MAX_POSITIONS, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        ),
        "opt": OPTConfig(**(_COMMON | {"ffn_dim": 128, "word_embed_proj_dim": D_MODEL})),
        "mixtral": MixtralConfig(
            **(_GATED | {"num_local_experts": 4, "num_experts_per_tok": 2})
        ),
    }  # fmt: skip


def make_architecture(
    folder: Path, name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Path:
    """Write a model to `folder`, and return it."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(architectures()[name]).float().eval()
    # Wider weights than the usual initialisation, so that greedy answers are not ties and every
    # block matters.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4.0)
    model.to(dtype).save_pretrained(folder)
    return folder
