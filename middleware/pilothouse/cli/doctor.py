"""`pilothouse doctor`: says what is installed here, whether it fits, and what a config would do."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from packaging.requirements import Requirement
from packaging.version import Version

from pilothouse.demo.memory import GIB, available_bytes
from pilothouse.engine.vllm.version import TESTED, check_version, vllm_version
from pilothouse.errors import PilothouseError, UnsupportedError
from pilothouse.library import Shelf, library_path

if TYPE_CHECKING:
    from pilothouse.artifacts.catalog import Catalog
    from pilothouse.config import PilothouseConfig
    from pilothouse.policy.schema import Policy

PACKAGES = ("pilothouse", "torch", "transformers", "fastapi", "prometheus-client", "openai")
LOW_MEMORY_GIB = 4
FINDING = 1
UNSEEN = "served names, API keys, adapters and what a model takes beside text show at the start"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def doctor(
    pilothouse_config: Annotated[
        Path | None,
        typer.Option(
            "--pilothouse-config",
            "--config",
            exists=True,
            dir_okay=False,
            help="A pilothouse.yaml to check.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model to serve with it, a folder or a name: tells taps and table memory. "
            "Reads its configuration, no weights."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is installed here and what a configuration would do.

    Exit 0: no problem. Ways round enforced rules that stay open are listed and are none; `policy
    lint` warns of those that a setting closes. 1: a problem. 2: wrong use.
    """
    if model is not None and pilothouse_config is None:
        raise typer.BadParameter("goes with --pilothouse-config FILE", param_hint="--model")
    report = examine(pilothouse_config, model)
    typer.echo(json.dumps(report, indent=2) if as_json else _text(report))
    if report["problems"]:
        raise typer.Exit(FINDING)


def examine(config_path: Path | None, model: str | None) -> dict[str, Any]:
    """Return everything that `doctor` finds, as plain data."""
    problems: list[str] = []
    report: dict[str, Any] = {
        "versions": {name: _version(name) for name in PACKAGES},
        "vllm": _vllm(problems),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": _memory_gib(problems),
        "disk_free_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        "library": _library(problems),
        "operator": _operator(),
        "routes": routes_report(config_path),
    }
    if config_path is not None:
        report["config"] = _config(config_path, model, problems)
    return report | {"problems": problems}


def _vllm(problems: list[str]) -> dict[str, Any]:
    supported = _supported_range()
    installed = None
    try:
        installed = vllm_version()
        if supported and Version(installed) not in Requirement(f"vllm{supported}").specifier:
            problems.append(f"vLLM {installed} is outside the supported range {supported}")
        else:
            check_version()
    except UnsupportedError as error:
        problems.append(str(error))
    return {"installed": installed, "supported": supported, "tested": list(TESTED)}


def _supported_range() -> str:
    """Return the supported range of vLLM from the package's own metadata (extra `cuda`)."""
    for text in requires("pilothouse") or ():
        requirement = Requirement(text)
        if requirement.name == "vllm":
            return str(requirement.specifier)
    return ""


def _memory_gib(problems: list[str]) -> float:
    gib = available_bytes() / GIB
    if gib < LOW_MEMORY_GIB:
        problems.append(f"{gib:.1f} GiB of memory free; the demo needs about {LOW_MEMORY_GIB}")
    return round(gib, 1)


def _library(problems: list[str]) -> dict[str, str | None]:
    shelves: dict[str, str | None] = {}
    for shelf in get_args(Shelf):
        try:
            shelves[shelf] = str(library_path(shelf))
        except PilothouseError as error:
            shelves[shelf] = None
            problems.append(str(error))
    return shelves


def _config(path: Path, model: str | None, problems: list[str]) -> dict[str, Any]:
    """Return what a configuration loads; with a model, the whole plan it leads to."""
    from pilothouse.artifacts.catalog import load_catalog
    from pilothouse.cli.plan_report import plan_report
    from pilothouse.config import load_config
    from pilothouse.policy.loader import load_policies

    try:
        config = load_config(path)
        catalog = load_catalog(config)
        policies = load_policies(config.policies)
        told: dict[str, Any] = {
            "vectors": {name: list(each.layers) for name, each in catalog.vectors.items()},
            "saes": {
                name: f"{each.form}, {each.num_features} features, {each.site} of layer "
                f"{each.tap.layer}"
                for name, each in catalog.saes.items()
            },
            "probes": {name: list(each.layers) for name, each in catalog.probes.items()},
            "policies": {each.name: each.spec.mode for each in policies},
            "profiles": sorted(config.profiles),
            "open_doors": doors_report(config, catalog, policies, model),
        }
        return told | ({"plan": plan_report(config, model, problems)} if model else {})
    except PilothouseError as error:
        problems.append(str(error))
        return {"error": str(error)}


def _operator() -> str:
    """Say who may reload and read the status; only `serve` knows where it listens."""
    if os.environ.get("VLLM_API_KEY"):
        return "callers on the server's machine who show the key in VLLM_API_KEY"
    return (
        "without --api-key callers on the server's machine, and nobody unless it listens on "
        "loopback (--host 127.0.0.1) or a Unix socket (--uds PATH) alone"
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _text(report: dict[str, Any]) -> str:
    lines: list[str] = []
    for name, value in report.items():
        if name in ("problems", "routes"):
            continue
        if isinstance(value, dict):
            shown = {key: each for key, each in value.items() if key not in ("plan", "open_doors")}
            lines += [f"{name}:", *(f"  {key}: {each}" for key, each in shown.items())]
        else:
            lines.append(f"{name}: {value}")
    if "plan" in report.get("config", {}):
        from pilothouse.cli.plan_report import plan_lines

        lines += plan_lines(report["config"]["plan"])
    if "open_doors" in report.get("config", {}):
        lines += door_lines(report["config"]["open_doors"])
    lines.append("routes:")
    lines += [
        f"  {each['verdict']:<9} {each['path']}  {each['reason']}" for each in report["routes"]
    ]
    lines += ["", *(f"problem: {each}" for each in report["problems"])]
    return "\n".join(lines if report["problems"] else [*lines, "no problems found"])


def routes_report(config_path: Path | None) -> list[dict[str, str]]:
    """Return what each known route gets, governed ones first, `gate.allow` among them."""
    from pilothouse.policy.endpoint_names import CHECK_PATHS
    from pilothouse.server.routes import ADMIN, DENIED, GOVERNED, HARMLESS, OWN, RouteTable

    table = RouteTable(_allowed(config_path))
    served = [*GOVERNED, *CHECK_PATHS.values(), *OWN, *ADMIN, *HARMLESS]
    paths = [*served, *sorted(table.allow), *DENIED]
    lines: list[dict[str, str]] = []
    for path in dict.fromkeys(paths):
        verdict = table.judge("OPTIONS", path)
        reason = verdict.reason or (HARMLESS[path].reason if path in HARMLESS else "")
        lines.append({"path": path, "verdict": verdict.kind, "reason": reason})
    return [*lines, {"path": "(any other)", "verdict": "denied", "reason": "not on the list"}]


def _allowed(config_path: Path | None) -> tuple[str, ...]:
    from pilothouse.config import load_config

    try:
        return load_config(config_path).gate.allow if config_path is not None else ()
    except PilothouseError:
        return ()  # what is wrong with the file is reported beside the routes


def doors_report(
    config: PilothouseConfig, catalog: Catalog, policies: Sequence[Policy], model: str | None
) -> list[dict[str, Any]]:
    """Return the ways round enforced rules that stay open; with a model, its template's too."""
    from pilothouse.cli.policy import artefacts_of
    from pilothouse.policy.open_doors import grouped, open_doors
    from pilothouse.policy.resolve import resolve_policy
    from pilothouse.server.open_doors import surroundings_of

    artefacts = artefacts_of(catalog)
    specs = {each.name: resolve_policy(each, artefacts).signals for each in policies}
    renders = None if model is None else has_chat_template(model)
    around = replace(surroundings_of(config), renders_chats=renders, has_metrics=True)
    return grouped(open_doors(policies, specs, around))


def has_chat_template(model: str) -> bool | None:
    """Tell whether the model's own tokenizer has a chat template; None where it cannot be read."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except Exception:  # whatever a tokenizer of the model's own making raises
        return None
    return getattr(tokenizer, "chat_template", None) is not None


def door_lines(doors: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines to print of them."""
    told = [
        f"  {each['door']} ({each['severity']}), past {', '.join(each['rules'])}: "
        f"{each['reason']}; {each['remedy']}"
        for each in doors
    ]
    return [f"doors that stay open ({UNSEEN}):", *(told or ["  none"])]
