"""`pilothouse vector bake`: writes a program into a model's weights, or an adapter beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from pilothouse.bake import Comparison, Steering, bake, steering_of_profile, steering_of_vector
from pilothouse.bake.bake_program import TOLERANCE, Kind
from pilothouse.cli.common import exits
from pilothouse.cli.sae.measure import read_prompts
from pilothouse.errors import ConfigError, EngineError
from pilothouse.output_dir import check_out
from pilothouse.progress import waiting


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
        named = (op, scale, value, unit, layer, writers)
        steering = _steering(config, profile, vector, named)
        check_out(out)
        compare = None if check is None else Comparison(read_prompts(check), tolerance, dtype)
        record = bake(
            model,
            out,
            steering,
            on_all=on_all,
            kind=cast(Kind, kind),
            compare=compare,
            model_id=model_id,
            waiting=waiting,
        )
    typer.echo(json.dumps(record, indent=2) if as_json else "\n".join(_lines(record, out)))


def _steering(
    config: Path | None,
    profile: str | None,
    vector: Path | None,
    named: tuple[str | None, float | None, float | None, str, list[int] | None, bool],
) -> Steering:
    if (config is None) != (profile is None) or (config is None) == (vector is None):
        raise ConfigError("bake: want either --config FILE with --profile NAME, or --vector DIR")
    if config is not None and profile is not None:
        if any(each not in (None, "raw", False) for each in named):
            raise ConfigError(
                "bake: --op, --scale, --value, --unit, --layer and --writers go with "
                "--vector: a profile says them itself"
            )
        return steering_of_profile(config, profile)
    assert vector is not None
    op, scale, value, unit, layers, at_writers = named
    return steering_of_vector(
        vector,
        op=op,
        scale=scale,
        value=value,
        unit=unit,
        layers=layers,
        sites="writers" if at_writers else "own",
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
    checked = (
        "not checked: give --check PROMPTS"
        if parity is None
        else (
            f"differs from steering by {parity['difference']:.3g} ({parity['share']:.3g} of the "
            f"largest number) over {parity['num_tokens']} tokens; steering moves them by "
            f"{parity['moved']:.3g}"
        )
    )
    return [
        f"wrote     {out}",
        f"as        {record['as']}" + (f" of rank {record['rank']}" if is_adapter else ""),
        f"changes   {record['matrices']} matrices, {record['biases']} biases",
        f"program   {record['program']}",
        f"parity    {checked}",
        f"use       {use}",
    ]
