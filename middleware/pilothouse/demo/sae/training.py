"""Trains the SAE with SAELens, and writes its files.

Beside SAELens' two files lie each feature's largest code over the texts of the training.

Shape suffixes: R rows, D width of the stream, M features.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from safetensors.numpy import load_file, save_file

from pilothouse.artifacts.saes.registry import FEATURES_FILE, load_sae
from pilothouse.artifacts.saes.saelens import CONFIG_FILE, WEIGHTS_FILE
from pilothouse.demo.sae.recipe import MAX_BYTES, NAME, Recipe
from pilothouse.demo.sae.stream import Halves, codes_of
from pilothouse.errors import ConfigError
from pilothouse.progress import Advance, Phase

HALVED: Final = ("W_enc", "W_dec")
"""What is stored in float16; biases and thresholds are small, and stay float32."""
SCALED_BY: Final = 20
"""Batches from which SAELens estimates how inputs are scaled."""


def trained(hidden_RD: Halves, recipe: Recipe, model_id: str, folder: Path, phase: Phase) -> Any:
    """Return codes_RM of the training's rows; the SAE is trained where its folder is not there.

    Raises:
        ConfigError: SAELens is not installed, or the weights take more room than they may.
    """
    from scipy.sparse import load_npz, save_npz

    codes_file = folder.with_name(f"{folder.name}-codes.npz")
    if folder.is_dir() and codes_file.is_file():
        return load_npz(codes_file)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as room:
        made = Path(room) / "made"
        _write(hidden_RD, recipe, model_id, made, phase)
        codes_RM = codes_of(load_sae(NAME, made, "saelens"), hidden_RD, phase)
        max_act_M = np.asarray(codes_RM.max(axis=0).todense()).reshape(-1)
        save_file({"max_act": max_act_M.astype(np.float32)}, made / FEATURES_FILE)
        save_npz(Path(room) / "codes.npz", codes_RM)
        (Path(room) / "codes.npz").replace(codes_file)
        made.rename(folder)
    return codes_RM


def _write(hidden_RD: Halves, recipe: Recipe, model_id: str, folder: Path, phase: Phase) -> None:
    steps = recipe.epochs * (len(hidden_RD) // recipe.batch)
    sae = _fitted(hidden_RD, recipe, steps, phase("training the SAE, steps", steps + SCALED_BY))
    sae.cfg.metadata.model_name = model_id
    sae.cfg.metadata.hook_name = f"blocks.{recipe.layer}.hook_resid_post"
    sae.save_inference_model(str(folder))
    _narrow(folder / WEIGHTS_FILE)
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _fitted(hidden_RD: Halves, recipe: Recipe, steps: int, advance: Advance) -> Any:
    import torch

    try:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer
    except ImportError as error:
        raise ConfigError(
            "the SAE's training: the package sae-lens is not installed: pip install "
            "'pilothouse[sae]'"
        ) from error
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(1)
    width = hidden_RD.shape[1]
    sae = _untrained(recipe, width)
    # A part of the rows is enough for where their middle is.
    some_RD = torch.from_numpy(hidden_RD[:: max(1, len(hidden_RD) // 50_000)].astype(np.float32))
    with torch.no_grad():  # in the units of scaled inputs, whose mean length is sqrt(D)
        sae.b_dec.copy_(some_RD.mean(0) * width**0.5 / some_RD.norm(dim=1).mean())
    config = SAETrainerConfig(
        total_training_samples=steps * recipe.batch,
        train_batch_size_samples=recipe.batch,
        lr=recipe.learning_rate,
        lr_end=recipe.last_learning_rate,
        lr_warm_up_steps=min(recipe.warm_up_steps, steps // 4),
        lr_decay_steps=steps // 3,
        n_batches_for_norm_estimate=SCALED_BY,
        dead_feature_window=recipe.dead_after_steps,
    )
    return SAETrainer(config, sae, _batches(hidden_RD, recipe, advance)).fit()


def _untrained(recipe: Recipe, width: int) -> Any:
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.matryoshka_batchtopk_sae import (
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
    )

    common: dict[str, Any] = {
        "d_in": width,
        "d_sae": recipe.features,
        "k": recipe.k,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "topk_threshold_lr": recipe.threshold_rate,
        "normalize_activations": "expected_average_only_in",
    }
    if recipe.architecture == "batchtopk":
        return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**common))
    return MatryoshkaBatchTopKTrainingSAE(
        MatryoshkaBatchTopKTrainingSAEConfig(**common, matryoshka_widths=list(recipe.widths))
    )


def _batches(hidden_RD: Halves, recipe: Recipe, advance: Advance) -> Iterator[Any]:
    """Yield shuffled batches without end."""
    import torch

    draw = np.random.default_rng(recipe.seed)
    while True:
        order_R = draw.permutation(len(hidden_RD))
        for start in range(0, len(order_R) - recipe.batch + 1, recipe.batch):
            rows = np.sort(order_R[start : start + recipe.batch])
            yield torch.from_numpy(hidden_RD[rows].astype(np.float32))
            advance(1)


def _narrow(place: Path) -> None:
    """Store the two matrices in half the room.

    Raises:
        ConfigError: the file is too large still.
    """
    tensors = load_file(place)
    save_file(
        {
            name: each.astype(np.float16 if name in HALVED else np.float32)
            for name, each in tensors.items()
        },
        place,
    )
    if place.stat().st_size > MAX_BYTES:
        raise ConfigError(
            where=place.name,
            got=f"{place.stat().st_size} bytes",
            want=f"at most {MAX_BYTES}",
            fix="train fewer features",
        )
