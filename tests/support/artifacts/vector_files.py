"""Files in each foreign layout, written as their libraries write them; no reader of ours is used.

Widths: D of the stream, H of all heads, N neurons.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file

D, H, N = 8, 10, 12
MODEL_CONFIG = {
    "model_type": "llama",
    "hidden_size": D,
    "num_hidden_layers": 6,
    "intermediate_size": N,
    "num_attention_heads": 2,
    "head_dim": 5,
}


def draw(*shape: int, seed: int) -> np.ndarray:
    """Numbers that no test takes for others."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def direction(layer: int) -> np.ndarray:
    """The direction that every format of directions has at a layer."""
    return draw(D, seed=100 + layer)


def write_gguf(file: Path, layers: tuple[int, ...] = (2, 3), hint: str = "llama") -> None:
    writer = gguf.GGUFWriter(file, "controlvector")
    writer.add_string("controlvector.model_hint", hint)
    writer.add_uint32("controlvector.layer_count", len(layers))
    for layer in layers:
        writer.add_tensor(f"direction.{layer}", direction(layer))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_svec(file: Path, **changes: Any) -> None:
    raw = {
        "model_type": "llama",
        "directions": {str(layer): direction(layer).tolist() for layer in (2, 3)},
        "explained_variances": {"2": 0.5, "3": 0.25},
    }
    file.write_text(json.dumps(raw | changes))


def write_npy(file: Path) -> None:
    with file.open("wb") as opened:
        np.save(opened, np.stack([direction(4), direction(2)]))


def write_safetensors(file: Path) -> None:
    save_file({"b": direction(3), "a": direction(2), "other": draw(3, 3, seed=1)}, file)


def write_refusal(folder: Path, **metadata: Any) -> None:
    folder.mkdir()
    torch.save(torch.from_numpy(direction(3)).double(), folder / "direction.pt")
    (folder / "direction_metadata.json").write_text(json.dumps({"pos": -2, "layer": 3} | metadata))


@dataclass
class SteeringVector:
    """As the steering-vectors library has it."""

    layer_activations: dict[int, torch.Tensor]
    layer_type: str = "decoder_block"


@contextmanager
def steering_vectors_library() -> Iterator[None]:
    """The library's module, for as long as something is pickled under its name."""
    name = "steering_vectors.steering_vector"
    package, module = ModuleType("steering_vectors"), ModuleType(name)
    module.SteeringVector = SteeringVector  # type: ignore[attr-defined]
    before = SteeringVector.__module__
    sys.modules |= {"steering_vectors": package, name: module}
    SteeringVector.__module__ = name
    try:
        yield
    finally:
        SteeringVector.__module__ = before
        del sys.modules["steering_vectors"], sys.modules[name]


def write_steering_vector(file: Path, layer_type: str = "decoder_block") -> None:
    tensors = {layer: torch.from_numpy(direction(layer)).bfloat16() for layer in (3, 2)}
    with steering_vectors_library():
        torch.save(SteeringVector(tensors, layer_type), file)


def loreft(layer: int, rank: int = 3) -> dict[str, torch.Tensor]:
    """rotate_layer [D, R] with orthonormal columns, weight [R, D], bias [R]."""
    rotate = np.linalg.qr(draw(D, rank, seed=layer))[0]
    parts = {
        "weight": draw(rank, D, seed=layer + 20),
        "bias": draw(rank, seed=layer + 30),
        "rotate_layer": rotate,
    }
    return {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in parts.items()}


def write_loreft(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for layer in (1, 4):
        name = f"intkey_layer_{layer}_comp_block_output_unit_pos_nunit_1#0.bin"
        torch.save(loreft(layer), folder / name)


SCORES = [0.6, -0.9, 0.7, 0.2, -0.8]
LAYER_IDS = [0, 0, 3, 3, 3]


def write_austeer(folder: Path) -> None:
    folder.mkdir()
    torch.save(SCORES, folder / "all_scores.pt")
    torch.save(LAYER_IDS, folder / "all_layer_ids.pt")
    torch.save([(0, 1), (4, 5), (2, 3), (7, 8), (9, 10)], folder / "all_indices.pt")


def act_linear(layer: int) -> dict[str, Any]:
    low, high = draw(D, seed=layer + 60) - 2, draw(D, seed=layer + 61) + 2
    bounds = [torch.from_numpy(low), torch.from_numpy(high)]
    return {
        "net.w1": torch.from_numpy(draw(1, D, seed=layer + 40)),
        "net.b1": torch.from_numpy(draw(1, D, seed=layer + 50)),
        "quantiles_dict_src": {"q_all": bounds, "q_0.1": bounds},
        "quantiles_src": "q_0.1",
    }


def write_act(folder: Path) -> None:
    folder.mkdir()
    for layer in (1, 2):
        torch.save(act_linear(layer), folder / f"model.layers.{layer}.mlp.down_proj.statedict")


def act_gaussian(layer: int) -> dict[str, Any]:
    std1 = np.abs(draw(D, seed=layer + 72)) + 0.1
    std1[5] = 0.0
    parts = {
        "mu1": draw(D, seed=layer + 70),
        "mu2": draw(D, seed=layer + 71),
        "std1": std1,
        "std2": np.abs(draw(D, seed=layer + 73)) + 0.1,
    }
    quantiles = {"quantiles_dict_src": {}, "quantiles_src": [-1e6, 1e6]}
    return {name: torch.from_numpy(each) for name, each in parts.items()} | quantiles


def write_act_gaussian(folder: Path) -> None:
    folder.mkdir()
    torch.save(act_gaussian(3), folder / "model.layers.3.statedict")


def planes(layer: int) -> dict[str, np.ndarray]:
    return {
        "first_direction": 3 * draw(D, seed=layer + 80),
        "second_direction": draw(D, seed=layer + 90),
    }


def write_angular(file: Path) -> None:
    norms = ("input_layernorm", "post_attention_layernorm")
    content = {
        f"model.layers.{layer}.{norm}": planes(layer + 5 * (norm == norms[0]))
        for layer in (2, 3)
        for norm in norms
    }
    with file.open("wb") as opened:
        np.save(opened, content, allow_pickle=True)  # type: ignore[arg-type]


def write_snmf(file: Path, mode: str = "mlp_intermediate") -> None:
    factors = {"F": torch.from_numpy(draw(N, 4, seed=7)), "G": torch.zeros(6, 4)}
    torch.save(factors | {"layer": 2, "mode": mode, "labels": ["a", "b"]}, file)


WRITERS: dict[str, Callable[[Path], None]] = {
    "cheerful.gguf": write_gguf,
    "cheerful.svec": write_svec,
    "rows.npy": write_npy,
    "named.safetensors": write_safetensors,
    "runs/refusal": write_refusal,
    "vector.pt": write_steering_vector,
    "reft": write_loreft,
    "units": write_austeer,
    "transport": write_act,
    "gaussian": write_act_gaussian,
    "steering_config.npy": write_angular,
    "snmf_factors.pt": write_snmf,
}
"""The files that the documentation's examples import."""
