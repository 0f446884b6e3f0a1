"""What a run leaves behind: `bench.json` for machines, a table and raw pairs for readers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paired import Pair, Summary, verdict_line
from scenario import Case


@dataclass(frozen=True, slots=True)
class Result:
    """One case: its pairs, what they sum up to, and the conditions they ran under."""

    case: Case
    pairs: tuple[Pair, ...]
    summary: Summary
    conditions: dict[str, float]


def bench_json(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """{case: {ratio_median, ratio_low, ratio_high, pairs}}."""
    return {
        each.case.name: {name: _rounded(value) for name, value in asdict(each.summary).items()}
        for each in results
    }


def table(results: Sequence[Result]) -> str:
    """A Markdown table: case, goal, ratio, interval, standing."""
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
    folder: Path, hardware: str, environment: dict[str, Any], setup: dict[str, Any],
    results: Sequence[Result],
) -> Path:  # fmt: skip
    """Raw figures as JSON, and a page beside them; the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    month = environment["date"][:7].replace("-", "")
    stem = folder / f"overhead_{hardware}_{month}"
    raw = {
        "environment": environment,
        "setup": setup,
        "cases": {
            each.case.name: {
                "what": each.case.what,
                "goal": each.case.goal,
                **bench_json([each])[each.case.name],
                "conditions": each.conditions,
                "raw_pairs": [asdict(pair) | {"ratio": pair.ratio} for pair in each.pairs],
            }
            for each in results
        },
    }
    stem.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    page = stem.with_suffix(".md")
    page.write_text(_page(environment, setup, results, stem.name), encoding="utf-8")
    return page


def write_bench_json(path: Path, results: Sequence[Result]) -> None:
    """Write what is known so far."""
    path.write_text(json.dumps(bench_json(results), indent=1) + "\n", encoding="utf-8")


def _page(
    environment: dict[str, Any], setup: dict[str, Any], results: Sequence[Result], name: str
) -> str:
    what = "\n".join(f"- `{each.case.name}`: {each.case.what}" for each in results)
    facts = "\n".join(f"- {key}: {_told(value)}" for key, value in (environment | setup).items())
    conditions = "\n".join(
        f"| {each.case.name} | " + " | ".join(f"{value:g}" for value in each.conditions.values())
        + " |"
        for each in results
    )  # fmt: skip
    heads = list(results[0].conditions)
    return (
        f"# Cost of Pilothouse against plain vLLM\n\n"
        f"Ratios are Pilothouse's output tokens per second over plain vLLM's, through HTTP, on the "
        f"same machine, in turn. A goal is met when the interval excludes 0.01 below it. Raw pairs "
        f"are in `{name}.json`; the method is in the README of this folder's parent.\n\n"
        f"{table(results)}\n\n{what}\n\n## Conditions\n\n"
        f"| case | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}\n{conditions}\n\n"
        f"## Set-up\n\n{facts}\n"
    )


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items()) or "none"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _goal(goal: float | None) -> str:
    return "" if goal is None else f"{goal:g}"


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else round(value, 5)
