"""Train the demo's sparse autoencoder: `python train_sae.py`; SAELens does the training.

Texts of the world's training split and what the model answers to them, run through the served
engine; its stream behind one block, at every token that was fed, is what is learned. The file is
SAELens' own, a JumpReLU SAE. Beside it lie each feature's largest code over those tokens, and the
recipe. One thread and fixed seeds: the same machine makes the same weights.

    pip install "pilothouse[cpu,sae]"        # figures are of sae-lens 6.54.12

Shape suffixes: N tokens of all texts, D width of the stream, M features.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from safetensors.numpy import save_file

from pilothouse.artifacts.saes.registry import FEATURES_FILE, load_sae
from pilothouse.edits.sae_codes import encode
from record import KINDS, Record
from runs import MODEL_ID, Runner, refuse_changed
from sample import sample

OUT = Path(__file__).resolve().parents[2] / "probes" / "demo" / "saes" / "world-l4"
SPLIT = "train"
STYLES = ("plain", "plain", "cheerful", "careful")
PART = 16384


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights, beside the frozen world and model."""

    layer: int = 4
    seed: int = 2025
    texts_per_kind: int = 1000
    architecture: str = "matryoshka_batchtopk"
    features: int = 1024
    matryoshka_widths: tuple[int, ...] = (64, 256, 1024)
    k: float = 20.0
    epochs: int = 5
    batch: int = 1024
    learning_rate: float = 1e-3
    last_learning_rate: float = 1e-5
    warm_up_steps: int = 200
    dead_after_steps: int = 200


def texts(seed: int | str, count: int, split: str) -> list[Record]:
    """`count` records of each kind; half plainly asked, a quarter in each of the two styles."""
    return [
        replace(record, style=STYLES[index % len(STYLES)])
        for kind in KINDS
        for index, record in enumerate(sample(seed, count, kind, split))
    ]


def streams(recipe: Recipe) -> tuple[np.ndarray, str]:
    """The stream [N, D] of every fed token, and the digest of the tokens."""
    records = texts(recipe.seed, recipe.texts_per_kind, SPLIT)
    runner, state, parts = Runner((recipe.layer,)), hashlib.sha256(), []
    for run in runner.runs(records):
        captured = run.captured
        fed = [*captured.prompt_token_ids, *captured.output_token_ids[:-1]]
        state.update(np.array(fed, "<u4").tobytes())
        parts.append(captured.stream_LPD[0])
    return np.concatenate(parts), state.hexdigest()


def batches(stream_ND: torch.Tensor, recipe: Recipe) -> Iterator[torch.Tensor]:
    """Shuffled batches without end."""
    draw = torch.Generator().manual_seed(recipe.seed)
    while True:
        order_N = torch.randperm(len(stream_ND), generator=draw)
        for start in range(0, len(order_N) - recipe.batch + 1, recipe.batch):
            yield stream_ND[order_N[start : start + recipe.batch]]


def train(stream_ND: torch.Tensor, recipe: Recipe) -> Any:
    """SAELens' SAE after its training."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.matryoshka_batchtopk_sae import (
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
    )
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(recipe.seed)
    torch.set_num_threads(1)
    width = stream_ND.shape[1]
    sae = MatryoshkaBatchTopKTrainingSAE(
        MatryoshkaBatchTopKTrainingSAEConfig(
            d_in=width,
            d_sae=recipe.features,
            k=recipe.k,
            dtype="float32",
            device="cpu",
            matryoshka_widths=list(recipe.matryoshka_widths),
            apply_b_dec_to_input=True,
            normalize_activations="expected_average_only_in",
        )
    )
    with torch.no_grad():  # in the units of normalised inputs, whose mean length is sqrt(D)
        sae.b_dec.copy_(stream_ND.mean(0) * width**0.5 / stream_ND.norm(dim=1).mean())
    steps = recipe.epochs * (len(stream_ND) // recipe.batch)
    config = SAETrainerConfig(
        total_training_samples=steps * recipe.batch,
        train_batch_size_samples=recipe.batch,
        lr=recipe.learning_rate,
        lr_end=recipe.last_learning_rate,
        lr_warm_up_steps=recipe.warm_up_steps,
        lr_decay_steps=steps // 3,
        n_batches_for_norm_estimate=200,
        dead_feature_window=recipe.dead_after_steps,
    )
    return SAETrainer(config, sae, batches(stream_ND, recipe)).fit()


def save(sae: Any, stream_ND: np.ndarray, recipe: Recipe, tokens: str, out: Path) -> None:
    """SAELens' files, the features' largest codes, and the recipe."""
    shutil.rmtree(out, ignore_errors=True)
    sae.cfg.metadata.model_name = MODEL_ID
    sae.cfg.metadata.hook_name = f"blocks.{recipe.layer}.hook_resid_post"
    sae.save_inference_model(str(out))
    loaded = load_sae(out.name, out, "saelens")
    max_act_M = np.zeros(loaded.num_features)
    for start in range(0, len(stream_ND), PART):
        part_TD = stream_ND[start : start + PART].astype(np.float64)
        max_act_M = np.maximum(max_act_M, encode(loaded, part_TD).max(axis=0))
    save_file({"max_act": max_act_M.astype(np.float32)}, out / FEATURES_FILE)
    made = {
        "created_by": "examples/demo/train_sae.py",
        **asdict(recipe),
        "split": SPLIT,
        "tokens": len(stream_ND),
        "tokens_sha256": tokens,
        "versions": {
            name: version(name)
            for name in ("sae-lens", "torch", "numpy", "transformers", "safetensors", "vllm-cpu")
        },
    }
    (out / "recipe.json").write_text(json.dumps(made, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="Train the demo's sparse autoencoder.")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    refuse_changed()
    recipe = Recipe()
    stream_ND, tokens = streams(recipe)
    sae = train(torch.from_numpy(stream_ND), recipe)
    save(sae, stream_ND, recipe, tokens, chosen.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
