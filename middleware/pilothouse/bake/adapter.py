"""A baked program as a LoRA adapter in PEFT's layout, which vLLM serves beside the base model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pilothouse.artifacts.saes.mapped_file import Stored, write_safetensors
from pilothouse.artifacts.saes.matrix import Matrix
from pilothouse.bake.architecture import Writers
from pilothouse.bake.baking import Baked, adapter_parts
from pilothouse.bake.checkpoint import Checkpoint
from pilothouse.errors import ConfigError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."


def save_adapter(base: Checkpoint, writers: Writers, baked: Baked, out: Path) -> int:
    """Write the adapter; returns its rank, the largest of its modules', to which all are filled.

    Raises:
        ConfigError: a change that no adapter can hold, or that vLLM would not load.
    """
    if not writers.lora or (baked.tables and not writers.lora_tables):
        what = "the embedding" if writers.lora else "this model"
        raise ConfigError(
            f"bake: vLLM takes no adapters of {what} for {base.config['model_type']!r}: use "
            "--as checkpoint"
        )
    tensors, ranks = adapter_parts(baked, PREFIX)
    rank = max(ranks.values())
    out.mkdir(parents=True, exist_ok=True)
    write_safetensors(out / WEIGHTS_FILE, _filled(tensors, rank), {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base.folder),
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": writers.is_transposed,
        "inference_mode": True,
        "target_modules": sorted(ranks),
        "modules_to_save": None,
    }
    (out / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return rank


def _filled(tensors: Stored, rank: int) -> Stored:
    """Zeros up to one rank, which is what servers make room for."""
    filled = Stored()
    for name, each in tensors.items():
        axis = 0 if name.removesuffix(".weight").endswith("_A") else 1
        room = [(0, 0), (0, 0)]
        room[axis] = (0, rank - each.shape[axis])
        filled[name] = Matrix(np.pad(each.raw, room))
    return filled
