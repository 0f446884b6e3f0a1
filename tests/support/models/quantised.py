"""Tiny models with quantised weights, in the layouts of compressed-tensors, and their reading back.

Shape suffixes: N outputs of a projection, K its inputs, G groups of inputs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

GROUP = 32
NIBBLES = 8
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Scheme:
    """A quantisation: its name in compressed-tensors, bits, and whether activations are rounded."""

    format: str
    bits: int
    rounds_activations: bool

    def config(self) -> dict[str, Any]:
        """`quantization_config` of config.json."""
        weights: dict[str, Any] = {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": True,
            "dynamic": False,
            "strategy": "channel" if self.bits == 8 else "group",
        }
        if self.bits == 4:
            weights["group_size"] = GROUP
        group: dict[str, Any] = {"targets": ["Linear"], "weights": weights}
        if self.rounds_activations:
            group["input_activations"] = {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "dynamic": True,
                "strategy": "token",
            }
        return {
            "quant_method": "compressed-tensors",
            "format": self.format,
            "config_groups": {"group_0": group},
            "ignore": ["lm_head"],
        }


SCHEMES = {
    "w8a8": Scheme("int-quantized", 8, True),
    "w4a16": Scheme("pack-quantized", 4, False),
}


def quantise(plain: Path, folder: Path, scheme: Scheme) -> tuple[Path, Path]:
    """Write the quantised model, and one with the same numbers as plain weights.

    Returns:
        (folder of the quantised model, folder of the other).
    """
    tensors = load_file(plain / "model.safetensors")
    packed: dict[str, Tensor] = {}
    read_back: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.split(".")[-2] not in PROJECTIONS:
            packed[name] = read_back[name] = tensor
            continue
        levels_NK, scales_NG = _levels(tensor, scheme)
        repeat = tensor.shape[1] // scales_NG.shape[1]
        read_back[name] = levels_NK * scales_NG.repeat_interleave(repeat, dim=1)
        packed |= _stored(name, levels_NK, scales_NG, scheme)
    config = json.loads((plain / "config.json").read_text())
    quantised = _write(
        folder / "quantised", packed, config | {"quantization_config": scheme.config()}
    )
    return quantised, _write(folder / "read_back", read_back, config)


def rounded_activations(x_TK: Tensor) -> Tensor:
    """Each token's values on 8 bits, symmetric, scaled by its largest. Pure."""
    scale_T1 = x_TK.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 127
    return (x_TK / scale_T1).round().clamp(-128, 127) * scale_T1


def _levels(weight_NK: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    group = weight_NK.shape[1] if scheme.bits == 8 else GROUP
    most = 2 ** (scheme.bits - 1) - 1
    groups_NGK = weight_NK.float().unflatten(1, (-1, group))
    # Scales that bfloat16 can hold, so that an engine of that dtype has the same weights.
    scales_NG = (groups_NGK.abs().amax(dim=-1) / most).bfloat16().float()
    levels_NGK = (groups_NGK / scales_NG[..., None]).round().clamp(-most - 1, most)
    return levels_NGK.flatten(1), scales_NG


def _stored(name: str, levels_NK: Tensor, scales_NG: Tensor, scheme: Scheme) -> dict[str, Tensor]:
    scales = {f"{name}_scale": scales_NG.contiguous()}
    if scheme.bits == 8:
        return scales | {name: levels_NK.to(torch.int8)}
    shifted = (levels_NK.to(torch.int64) + 8).unflatten(1, (-1, NIBBLES))
    words = (shifted << (4 * torch.arange(NIBBLES))).sum(dim=-1)
    signed = torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
    return scales | {
        f"{name}_packed": signed.contiguous(),
        f"{name}_shape": torch.tensor(levels_NK.shape, dtype=torch.int64),
    }


def _write(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "config.json").write_text(json.dumps(config))
    return folder
