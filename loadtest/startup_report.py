"""What starts add up to: medians with their spread, and what the goal makes of the difference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from paired import (
    MIN_PAIRS,
    MIN_PAIRS_TO_JUDGE,
    Difference,
    Order,
    Standing,
    Summary,
    summarise_differences,
    summarise_ratios,
)

Who = Literal["plain", "pilothouse"]
Kind = Literal["cold", "warm", "eager"]
GOAL_S, GOAL_RATIO = 5.0, 1.10
"""How much later than plain vLLM a server may be ready: both at most."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start of one server."""

    who: Who
    kind: Kind
    pair: int
    order: Order
    ready_s: float
    """From the command to 200 on /health."""
    first_token_s: float
    """From the first chat after that to the first piece of its answer."""
    cpu_s: float
    """Processor time of all its processes until it was ready, compilers among them."""
    peak_mib: int
    """The most that its processes took together, the chat included."""
    peak_resident_mib: int
    """The same with shared pages counted in each process."""
    processes: int
    cores_used_by_others: float


@dataclass(frozen=True, slots=True)
class KindSummary:
    """Starts of one kind; without an interval where there is one pair alone."""

    kind: Kind
    pairs: int
    difference_s: Difference | None
    """Of the time to ready, ours over plain's."""
    ratio: Summary | None
    standing: Standing


def summaries(starts: Sequence[Start]) -> list[KindSummary]:
    """One for each kind of which there is a whole pair, in the order in which they came."""
    kinds = dict.fromkeys(each.kind for each in starts)
    return [found for kind in kinds if (found := _summary(kind, starts)) is not None]


def _summary(kind: Kind, starts: Sequence[Start]) -> KindSummary | None:
    ready = {(each.who, each.pair): each.ready_s for each in starts if each.kind == kind}
    whole = [pair for who, pair in ready if who == "plain" and ("pilothouse", pair) in ready]
    if not whole:
        return None
    if len(whole) < MIN_PAIRS:
        return KindSummary(kind, len(whole), None, None, "not resolved")
    plain = [ready["plain", pair] for pair in whole]
    ours = [ready["pilothouse", pair] for pair in whole]
    difference = summarise_differences([a - b for a, b in zip(ours, plain, strict=True)])
    ratio = summarise_ratios([a / b for a, b in zip(ours, plain, strict=True)])
    return KindSummary(kind, len(whole), difference, ratio, standing(difference, ratio))


def standing(difference_s: Difference, ratio: Summary) -> Standing:
    """Met: both intervals lie below their bounds. Missed: one lies above its own."""
    if difference_s.pairs < MIN_PAIRS_TO_JUDGE:
        return "not resolved"
    if difference_s.high <= GOAL_S and ratio.ratio_high <= GOAL_RATIO:
        return "met"
    if difference_s.low > GOAL_S or ratio.ratio_low > GOAL_RATIO:
        return "missed"
    return "not resolved"


def line(start: Start) -> str:
    """What is said when a start is done."""
    return (
        f"  {start.kind} {start.who}: ready after {start.ready_s:.1f} s, first token "
        f"{start.first_token_s:.2f} s later, {start.cpu_s:.0f} s of processor time, "
        f"{start.peak_mib} MiB in {start.processes} processes, others used "
        f"{start.cores_used_by_others:.2f} cores"
    )


def table(starts: Sequence[Start]) -> str:
    """As Markdown: a row for each kind and server, then what the goal makes of each kind."""
    rows = [
        "| start | server | n | ready s | first token s | processor s | memory MiB | processes |",
        "|---|---|---:|---|---|---|---|---:|",
    ]
    for kind in dict.fromkeys(each.kind for each in starts):
        for who in ("plain", "pilothouse"):
            found = [each for each in starts if (each.kind, each.who) == (kind, who)]
            if found:
                rows.append(
                    f"| {kind} | {who} | {len(found)} "
                    f"| {_spread([each.ready_s for each in found], 1)} "
                    f"| {_spread([each.first_token_s for each in found], 2)} "
                    f"| {_spread([each.cpu_s for each in found], 0)} "
                    f"| {_spread([float(each.peak_mib) for each in found], 0)} "
                    f"| {max(each.processes for each in found)} |"
                )
    return "\n".join([*rows, "", *(_verdict(each) for each in summaries(starts))])


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = (
        f"{each:.{digits}f}" for each in (min(values), median(values), max(values))
    )
    return f"{middle} [{low}, {high}]" if len(values) > 1 else middle


def _verdict(found: KindSummary) -> str:
    if found.difference_s is None or found.ratio is None:
        return f"{found.kind}: one pair, of which no interval can be given"
    return (
        f"{found.kind}, ours over plain, {found.pairs} pairs: "
        f"{found.difference_s.median:+.1f} s [{found.difference_s.low:+.1f}, "
        f"{found.difference_s.high:+.1f}], x{found.ratio.ratio_median:.3f} "
        f"[{found.ratio.ratio_low:.3f}, {found.ratio.ratio_high:.3f}]; goal: at most "
        f"{GOAL_S:g} s and x{GOAL_RATIO:g} later: {found.standing}"
    )


def write(
    path: Path, environment: dict[str, Any], setup: dict[str, Any], starts: Sequence[Start]
) -> None:
    """Write what is known so far, whole or not at all."""
    said = {
        "environment": environment,
        "setup": setup,
        "goal": {"later_s": GOAL_S, "ratio": GOAL_RATIO},
        "summary": {each.kind: asdict(each) for each in summaries(starts)},
        "starts": [asdict(each) for each in starts],
    }
    made = path.with_suffix(".part")
    made.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    made.replace(path)
