"""`pilothouse vector bake`: a program into a model's weights, or into an adapter beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from pilothouse.bake.adapter import save_adapter
from pilothouse.bake.architecture import Writers, writers_of
from pilothouse.bake.baking import Baked, bake, checkpoint_parts
from pilothouse.bake.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from pilothouse.bake.placing import check_terms, placed
from pilothouse.cli.bake_check import Parity, check_parity
from pilothouse.cli.exits import exits
from pilothouse.config import ArtefactRef, PilothouseConfig, load_config
from pilothouse.edit.program import Program, compile_program
from pilothouse.edit.sources import Sources
from pilothouse.errors import ConfigError, EngineError
from pilothouse.model.artefact import refuse
from pilothouse.model.catalogue import load_catalogue
from pilothouse.output_dir import MADE, atomic_output_dir, check_out
from pilothouse.progress import waiting
from pilothouse.term import SteerTerm

KINDS = ("auto", "adapter", "checkpoint")
RECORD_FILE = "pilothouse_bake.json"
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Order:
    """What is baked: terms, and the configuration that loads their vectors."""

    terms: tuple[SteerTerm, ...]
    config: PilothouseConfig


def bake_program(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model's local folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty.")],
    config: Annotated[
        Path | None, typer.Option(help="pilothouse.yaml that has the profile.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="The profile to bake, with --config.")] = None,
    vector: Annotated[
        Path | None, typer.Option(help="A vector's folder, in place of both.")
    ] = None,
    op: Annotated[str | None, typer.Option(help="What is done with the vector.")] = None,
    scale: Annotated[float | None, typer.Option(help="How strongly.")] = None,
    value: Annotated[float | None, typer.Option(help="For operators that take one.")] = None,
    unit: Annotated[str, typer.Option(help="raw, unit or residual.")] = "raw",
    layer: Annotated[list[int] | None, typer.Option(help="May stand several times.")] = None,
    writers: Annotated[
        bool, typer.Option("--writers", help="Ablate at all that writes to the stream.")
    ] = False,
    on_all: Annotated[
        bool, typer.Option("--on-all", help="Bake clauses for every token, the prompt's too.")
    ] = False,
    kind: Annotated[
        str, typer.Option("--as", help="adapter, checkpoint; auto: an adapter where that is exact.")
    ] = "auto",
    check: Annotated[
        Path | None,
        typer.Option(help="Prompts, one on each line: runs the baked and the steered model."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Largest difference, as a share of the largest number.")
    ] = TOLERANCE,
    dtype: Annotated[str, typer.Option(help="In which both models run for --check.")] = "auto",
    model_id: Annotated[
        str | None, typer.Option(help="The model's name in artefacts, if not its folder's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Write additive and projection steering into weights, exactly, or say why that cannot be."""
    with exits(EngineError):
        if kind not in KINDS:
            raise ConfigError(f"--as: got {kind!r}, want one of {', '.join(KINDS)}")
        named = (op, scale, value, unit, layer, writers)
        order = _order(config, profile, vector, named, on_all)
        check_out(out)
        with atomic_output_dir(out) as room:
            made = room / MADE
            served = model_id or order.config.model_id or model.resolve().name
            settled = order.config.model_copy(update={"model_id": served})
            with waiting(f"baking into {model}"):
                record = _bake(model, Order(order.terms, settled), kind, made)
            parity = None
            if check is not None:
                rank = record["rank"] if record["as"] == "adapter" else None
                with waiting("running the steered and the baked model"):
                    parity = check_parity(model, made, rank, settled, check, dtype)
                record["parity"] = parity._asdict()
            (made / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            _judge(parity, tolerance)
    typer.echo(json.dumps(record, indent=2) if as_json else "\n".join(_lines(record, out)))


def _order(
    config: Path | None, profile: str | None, vector: Path | None,
    named: tuple[str | None, float | None, float | None, str, list[int] | None, bool], on_all: bool,
) -> Order:  # fmt: skip
    if (config is None) != (profile is None) or (config is None) == (vector is None):
        raise ConfigError("bake: want either --config FILE with --profile NAME, or --vector DIR")
    if config is not None and profile is not None:
        if any(each not in (None, "raw", False) for each in named):
            raise ConfigError("bake: --op, --scale, --value, --unit, --layer and --writers go with "
                              "--vector: a profile says them itself")  # fmt: skip
        loaded = load_config(config)
        if profile not in loaded.profiles:
            raise ConfigError(f"--profile: got {profile!r}, want one of {sorted(loaded.profiles)}")
        terms = loaded.profiles[profile].steer
    else:
        assert vector is not None
        op, scale, value, unit, layers, at_writers = named
        raw = {
            "vector": "it", "op": op, "scale": scale, "value": value, "unit": unit,
            "layers": layers, "sites": "writers" if at_writers else "own", "on": "all",
        }  # fmt: skip
        try:
            terms = (SteerTerm.model_validate(raw),)
        except ValidationError as error:
            raise ConfigError(f"bake: {error}") from error
        loaded = PilothouseConfig(version=1, vectors={"it": ArtefactRef(path=vector)})
    if on_all:
        terms = tuple(each.model_copy(update={"on": "all"}) for each in terms)
    check_terms(terms)
    names = {each.name for each in terms}
    vectors = {name: ref for name, ref in loaded.vectors.items() if name in names}
    kept = PilothouseConfig.model_validate(
        {"version": 1, "vectors": vectors, "model_id": loaded.model_id,
         "profiles": {"bake:program": {"steer": terms}},
         "limits": {"max_norm_ratio": 1e30, "max_rank": 64}}
    )  # fmt: skip
    return Order(terms, kept)


def _bake(model: Path, order: Order, kind: str, out: Path) -> dict[str, Any]:
    catalogue = load_catalogue(order.config)
    for each in catalogue.vectors.values():
        if each.model_id != order.config.model_id:
            refuse(each.name, "model_id", repr(each.model_id), repr(order.config.model_id),
                   f"bake it into the model that it was made for, or say --model-id "
                   f"{each.model_id} if this is that model")  # fmt: skip
    base = open_checkpoint(model)
    writers = writers_of(base.folder, base.config)
    layers = int(base.config.get("num_hidden_layers") or base.config.get("n_layer") or 0)
    program = compile_program(order.terms, Sources(catalogue.vectors, num_layers=layers))
    if program is None:
        raise ConfigError("bake: the terms write nothing: scales of 0, or additions that cancel")
    baked = bake(base, writers, placed(program, writers, base.config))
    written, rank = _write(base, writers, baked, kind, out)
    return {
        "as": written, "rank": rank, "model": str(model), "program": program.digest,
        "coefficient": program.coefficient, "matrices": len(baked.matrices) + len(baked.tables),
        "biases": len(baked.shifted & baked.matrices.keys()), "places": _places(program),
        "artefacts": {name: each.digest for name, each in catalogue.vectors.items()},
        "terms": [each.model_dump(mode="json", exclude_defaults=True) for each in order.terms],
    }  # fmt: skip


def _write(
    base: Checkpoint, writers: Writers, baked: Baked, kind: str, out: Path
) -> tuple[str, int | None]:
    fits = not baked.shifted and writers.lora and (writers.lora_tables or not baked.tables)
    if kind == "adapter" or (kind == "auto" and fits):
        return "adapter", save_adapter(base, writers, baked, out)
    save_checkpoint(base, out, *checkpoint_parts(base, writers, baked))
    return "checkpoint", None


def _places(program: Program) -> list[str]:
    return [f"{tap.site} of layer {tap.layer}" for tap in program.layers]


def _judge(parity: Parity | None, tolerance: float) -> None:
    if parity is not None and not parity.share <= tolerance:
        raise EngineError(
            f"bake: the baked model differs from the steered one by {parity.difference:.3g}, "
            f"{parity.share:.3g} of the largest number, want at most {tolerance:g}: nothing was "
            "written. In bfloat16 rounded weights differ by about 1e-2: give --dtype float32 or a "
            "--tolerance that you can stand by"
        )


def _lines(record: dict[str, Any], out: Path) -> list[str]:
    is_adapter = record["as"] == "adapter"
    use = (
        f"vllm serve {record['model']} --enable-lora --max-lora-rank {max(8, record['rank'])} "
        f"--lora-modules baked={out}"
        if is_adapter
        else f"vllm serve {out}"
    )
    parity = record.get("parity")
    checked = "not checked: give --check PROMPTS" if parity is None else (
        f"differs from steering by {parity['difference']:.3g} ({parity['share']:.3g} of the "
        f"largest number) over {parity['num_tokens']} tokens; steering moves them by "
        f"{parity['moved']:.3g}"
    )  # fmt: skip
    return [
        f"wrote     {out}",
        f"as        {record['as']}" + (f" of rank {record['rank']}" if is_adapter else ""),
        f"changes   {record['matrices']} matrices, {record['biases']} biases",
        f"program   {record['program']}",
        f"parity    {checked}",
        f"use       {use}",
    ]
