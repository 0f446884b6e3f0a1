"""What a run leaves behind: `bench.json` for machines, a table and raw pairs for readers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paired import HostSummary, Pair, Summary, host_verdict_line, verdict_line
from scenario import Case, HostCase


@dataclass(frozen=True, slots=True)
class Result:
    """One case: its pairs, what they sum up to, and the conditions they ran under."""

    case: Case
    pairs: tuple[Pair, ...]
    summary: Summary
    conditions: dict[str, float]


@dataclass(frozen=True, slots=True)
class HostResult:
    """Host work per step: each round's figures, and what they sum up to."""

    case: HostCase
    rounds: tuple[dict[str, float], ...]
    summary: HostSummary


AnyResult = Result | HostResult


def bench_json(results: Sequence[AnyResult]) -> dict[str, dict[str, float]]:
    """{case: {ratio_median, ratio_low, ratio_high, pairs}}; {us_median, ...} of host work."""
    return {
        each.case.name: {name: _rounded(value) for name, value in asdict(each.summary).items()}
        for each in results
    }


def table(results: Sequence[AnyResult]) -> str:
    """Markdown tables: case, goal, ratio, interval, standing; and host work per step."""
    paired = [each for each in results if isinstance(each, Result)]
    host = [each for each in results if isinstance(each, HostResult)]
    parts = [_paired_table(paired)] if paired else []
    return "\n\n".join([*parts, _host_table(host)] if host else parts)


def _host_table(results: Sequence[HostResult]) -> str:
    lines = [
        "| case | goal | us a step (median) | 95% interval | rounds | standing |",
        "|---|---|---|---|---|---|",
    ]
    for each in results:
        summary, goal = each.summary, each.case.goal_us
        lines.append(
            f"| {each.case.name} | < {goal:g} | {summary.us_median:.0f} "
            f"| {summary.us_low:.0f} to {summary.us_high:.0f} | {summary.rounds} "
            f"| {host_verdict_line(summary, goal)} |"
        )
    return "\n".join(lines)


def _paired_table(results: Sequence[Result]) -> str:
    lines = [
        "| case | goal | ratio (median) | 95% interval | pairs | standing | plain tokens/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in results:
        summary, goal = each.summary, each.case.goal
        plain = sorted(pair.plain_tokens_per_s for pair in each.pairs)[len(each.pairs) // 2]
        lines.append(
            f"| {each.case.name} | {_goal(goal)} | {summary.ratio_median:.4f} "
            f"| {summary.ratio_low:.4f} to {summary.ratio_high:.4f} | {summary.pairs} "
            f"| {'for information' if goal is None else verdict_line(summary, goal)} "
            f"| {plain:.0f} |"
        )
    return "\n".join(lines)


def write_record(
    folder: Path,
    hardware: str,
    environment: dict[str, Any],
    setup: dict[str, Any],
    results: Sequence[AnyResult],
) -> Path:
    """Raw figures as JSON, and a page beside them; the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    month = environment["date"][:7].replace("-", "")
    stem = folder / f"overhead_{hardware}_{month}"
    raw = {
        "environment": environment,
        "setup": setup,
        "cases": {each.case.name: _raw(each) for each in results},
    }
    stem.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    page = stem.with_suffix(".md")
    page.write_text(_page(environment, setup, results, stem.name), encoding="utf-8")
    return page


def _raw(result: AnyResult) -> dict[str, Any]:
    figures = bench_json([result])[result.case.name]
    if isinstance(result, HostResult):
        about = {"what": result.case.what, "goal_us": result.case.goal_us}
        return about | figures | {"raw_rounds": list(result.rounds)}
    return {
        "what": result.case.what,
        "goal": result.case.goal,
        **figures,
        "burst": asdict(result.case.burst),
        "conditions": result.conditions,
        "raw_pairs": [asdict(pair) | {"ratio": pair.ratio} for pair in result.pairs],
    }


def write_bench_json(path: Path, results: Sequence[AnyResult]) -> None:
    """Write what is known so far."""
    path.write_text(json.dumps(bench_json(results), indent=1) + "\n", encoding="utf-8")


def _page(
    environment: dict[str, Any], setup: dict[str, Any], results: Sequence[AnyResult], name: str
) -> str:
    what = "\n".join(f"- `{each.case.name}`: {each.case.what}" for each in results)
    facts = "\n".join(f"- {key}: {_told(value)}" for key, value in (environment | setup).items())
    return (
        f"# Cost of Pilothouse against plain vLLM\n\n"
        f"Ratios are Pilothouse's output tokens per second over plain vLLM's, through HTTP, on the "
        f"same machine, in turn. A goal is met when the interval excludes 0.01 below it. Raw pairs "
        f"are in `{name}.json`; the method is in the README of this folder's parent.\n\n"
        f"{table(results)}\n\n{what}\n\n"
        f"{_conditions([each for each in results if isinstance(each, Result)])}"
        f"## Set-up\n\n{facts}\n"
    )


def _conditions(results: Sequence[Result]) -> str:
    if not results:
        return ""
    heads = list(results[0].conditions)
    rows = "\n".join(
        f"| {each.case.name} | "
        + " | ".join(f"{value:g}" for value in each.conditions.values())
        + " |"
        for each in results
    )
    return (
        f"## Conditions\n\n| case | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}\n{rows}\n\n"
    )


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items()) or "none"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _goal(goal: float | None) -> str:
    return "" if goal is None else f"{goal:g}"


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else round(value, 5)
