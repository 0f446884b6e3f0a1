"""`bake`: a program into a model's weights, or into an adapter beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
from pydantic import ValidationError

from pilothouse.artifacts.catalog import load_catalog
from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.saes.mapped_file import Stored, write_safetensors
from pilothouse.artifacts.saes.matrix import Matrix
from pilothouse.bake.architecture import Writers, writers_of
from pilothouse.bake.baking import Baked, adapter_parts, bake_matrices, checkpoint_parts
from pilothouse.bake.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from pilothouse.bake.parity import Parity, check_parity
from pilothouse.bake.placing import check_terms, placed
from pilothouse.config import ArtefactRef, PilothouseConfig, load_config
from pilothouse.edits.program import Program, compile_program
from pilothouse.edits.sources import Sources
from pilothouse.errors import ConfigError, EngineError, argument
from pilothouse.output_dir import MADE, atomic_output_dir, check_out
from pilothouse.progress import Wait, silent_wait
from pilothouse.term import SteerTerm

Kind = Literal["auto", "adapter", "checkpoint"]
RECORD_FILE: Final = "pilothouse_bake.json"
TOLERANCE: Final = 1e-4
"""The largest share that float32 weights may differ by; rounded to bfloat16 it is about 1e-2."""


@dataclass(frozen=True, slots=True)
class Steering:
    """What is baked: terms, and the configuration that loads their vectors."""

    terms: tuple[SteerTerm, ...]
    config: PilothouseConfig


class Comparison(NamedTuple):
    """How the baked model is compared with the steered one: both run on prompts.

    Args:
        tolerance: the largest difference, as a share of the largest number.
        dtype: in which both run.
    """

    prompts: Sequence[str]
    tolerance: float = TOLERANCE
    dtype: str = "auto"


def steering_of_profile(config: Path | str, profile: str) -> Steering:
    """Return what a profile of a pilothouse.yaml steers.

    Raises:
        ConfigError: it has no such profile, one that steers nothing, or cannot be read.
    """
    loaded = load_config(Path(config))
    if profile not in loaded.profiles:
        raise ConfigError(
            where=argument("profile"), got=repr(profile), want=f"one of {sorted(loaded.profiles)}"
        )
    terms = loaded.profiles[profile].steer
    if not terms:
        raise ConfigError(
            where=argument("profile"), got=repr(profile), want="one that steers something"
        )
    return Steering(terms, loaded)


def steering_of_vector(vector: Path | str, **fields: object) -> Steering:
    """Return the steering of one vector.

    Args:
        vector: its folder.
        fields: those of a line of steering: `op`, `scale`, `value`, `unit`, `layers`, `sites`.

    Raises:
        ConfigError: they do not go together.
    """
    raw = {"vector": "it", "on": "all"} | fields
    try:
        terms = (SteerTerm.model_validate(raw),)
    except ValidationError as error:
        raise ConfigError(f"bake: {error}") from error
    return Steering(
        terms, PilothouseConfig(version=1, vectors={"it": ArtefactRef(path=Path(vector))})
    )


def bake(
    model: Path | str,
    out: Path | str,
    steering: Steering,
    *,
    on_all: bool = False,
    kind: Kind = "auto",
    compare: Comparison | None = None,
    model_id: str | None = None,
    waiting: Wait | None = None,
) -> dict[str, Any]:
    """Write additive and projection steering into weights, exactly, or say why that cannot be.

    Args:
        model: the model's local folder.
        out: the folder to write, new or empty: all of it or nothing.
        steering: as `steering_of_profile` or `steering_of_vector` return it.
        on_all: bake clauses for every token, the prompt's too, though they say less.
        kind: `auto` is an adapter where that is exact, else a checkpoint.
        compare: run the baked and the steered model as well.
        model_id: the model's name in artefacts, if it is not its folder's.
        waiting: says what takes a while.

    Returns:
        The record that the folder has as `pilothouse_bake.json`.

    Raises:
        ConfigError: steering that no weights can hold, or files that cannot be read.
        EngineError: the baked model does not do what steering does; nothing is written.
    """
    if kind not in get_args(Kind):
        raise ConfigError(
            where=argument("kind"), got=repr(kind), want=f"one of {', '.join(get_args(Kind))}"
        )
    waits = waiting or silent_wait
    model, out = Path(model), Path(out)
    check_out(out)
    settled = _settled(steering, on_all, model_id, model)
    with atomic_output_dir(out) as room:
        made = room / MADE
        with waits(f"baking into {model}"):
            record = _bake(model, settled, kind, made)
        parity = None
        if compare is not None:
            rank = record["rank"] if record["as"] == "adapter" else None
            with waits("running the steered and the baked model"):
                parity = check_parity(
                    model, made, rank, settled.config, list(compare.prompts), compare.dtype
                )
            record["parity"] = parity._asdict()
        (made / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if parity is not None and compare is not None:
            _judge(parity, compare.tolerance)
    return record


def _settled(steering: Steering, on_all: bool, model_id: str | None, model: Path) -> Steering:
    """Return the terms as they are baked, and what loads their vectors and nothing else."""
    loaded, terms = steering.config, steering.terms
    if on_all:
        terms = tuple(each.model_copy(update={"on": "all"}) for each in terms)
    check_terms(terms)
    names = {each.name for each in terms}
    vectors = {name: ref for name, ref in loaded.vectors.items() if name in names}
    kept = PilothouseConfig.model_validate(
        {
            "version": 1,
            "vectors": vectors,
            "model_id": model_id or loaded.model_id or model.resolve().name,
            "profiles": {"bake:program": {"steer": terms}},
            "limits": {"max_norm_ratio": 1e30, "max_rank": 64},
        }
    )
    return Steering(terms, kept)


def _bake(model: Path, steering: Steering, kind: Kind, out: Path) -> dict[str, Any]:
    catalog = load_catalog(steering.config)
    for each in catalog.vectors.values():
        if each.model_id != steering.config.model_id:
            refuse(
                each.name,
                "model_id",
                repr(each.model_id),
                repr(steering.config.model_id),
                f"bake it into the model that it was made for, or say "
                f"{argument('model_id', each.model_id)} if this is that model",
            )
    base = open_checkpoint(model)
    writers = writers_of(base.folder, base.config)
    layers = int(base.config.get("num_hidden_layers") or base.config.get("n_layer") or 0)
    program = compile_program(steering.terms, Sources(catalog.vectors, num_layers=layers))
    if program is None:
        raise ConfigError("bake: the terms write nothing: scales of 0, or additions that cancel")
    baked = bake_matrices(base, writers, placed(program, writers, base.config))
    written, rank = _write(base, writers, baked, kind, out)
    return {
        "as": written,
        "rank": rank,
        "model": str(model),
        "program": program.digest,
        "coefficient": program.coefficient,
        "matrices": len(baked.matrices) + len(baked.tables),
        "biases": len(baked.shifted & baked.matrices.keys()),
        "places": _places(program),
        "artefacts": {name: each.digest for name, each in catalog.vectors.items()},
        "terms": [each.model_dump(mode="json", exclude_defaults=True) for each in steering.terms],
    }


def _write(
    base: Checkpoint, writers: Writers, baked: Baked, kind: Kind, out: Path
) -> tuple[str, int | None]:
    fits = not baked.shifted and writers.lora and (writers.lora_tables or not baked.tables)
    if kind == "adapter" or (kind == "auto" and fits):
        return "adapter", save_adapter(base, writers, baked, out)
    save_checkpoint(base, out, *checkpoint_parts(base, writers, baked))
    return "checkpoint", None


def _places(program: Program) -> list[str]:
    return [f"{tap.site} of layer {tap.layer}" for tap in program.layers]


def _judge(parity: Parity, tolerance: float) -> None:
    if not parity.share <= tolerance:
        raise EngineError(
            f"bake: the baked model differs from the steered one by {parity.difference:.3g}, "
            f"{parity.share:.3g} of the largest number, want at most {tolerance:g}: nothing was "
            "written. In bfloat16 rounded weights differ by about 1e-2: give "
            f"{argument('dtype', 'float32')} or a {argument('tolerance')} that you can stand by"
        )


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
            f"{argument('kind', 'checkpoint')}"
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
    """Return a factor padded with zeros up to a rank that servers make room for."""
    filled = Stored()
    for name, each in tensors.items():
        axis = 0 if name.removesuffix(".weight").endswith("_A") else 1
        room = [(0, 0), (0, 0)]
        room[axis] = (0, rank - each.shape[axis])
        filled[name] = Matrix(np.pad(each.raw, room))
    return filled
