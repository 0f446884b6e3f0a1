"""LoRA adapters in PEFT's layout, and the same models with the adapter merged into their weights.

Shape suffixes: N outputs of a projection, K its inputs, R rank.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

RANK = 8
ALPHA = 16
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def make_adapter(model: Path, folder: Path, *, seed: int, size: float = 0.3) -> tuple[Path, Path]:
    """A random adapter of every projection of a model.

    Returns:
        (folder of the adapter, folder of the model with the adapter merged).
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(model / "model.safetensors")
    adapter, merged = {}, dict(tensors)
    for name, weight_NK in tensors.items():
        path = name.removesuffix(".weight")
        if path.split(".")[-1] not in PROJECTIONS:
            continue
        a_RK = torch.randn(RANK, weight_NK.shape[1], generator=generator) / RANK
        b_NR = size * torch.randn(weight_NK.shape[0], RANK, generator=generator) / RANK
        adapter[f"base_model.model.{path}.lora_A.weight"] = a_RK
        adapter[f"base_model.model.{path}.lora_B.weight"] = b_NR
        merged[name] = weight_NK + ALPHA / RANK * b_NR @ a_RK
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": list(PROJECTIONS),
        "bias": "none",
        "lora_dropout": 0.0,
        "base_model_name_or_path": str(model),
    }
    ours, whole = folder / "adapter", folder / "merged"
    for place in (ours, whole):
        place.mkdir(parents=True)
    save_file(adapter, ours / "adapter_model.safetensors")
    (ours / "adapter_config.json").write_text(json.dumps(config))
    save_file(merged, whole / "model.safetensors", metadata={"format": "pt"})
    (whole / "config.json").write_text((model / "config.json").read_text())
    return ours, whole
