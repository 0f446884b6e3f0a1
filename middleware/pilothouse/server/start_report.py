"""What is told once at start: revision, what is loaded, policies, taps, memory and doors."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.table_size import MIB, planned_memory
from pilothouse.engine.vllm.version import tested_range, vllm_version
from pilothouse.log_text import log_lines
from pilothouse.policy.ending_rules import Surroundings
from pilothouse.server.open_doors import doors_of
from pilothouse.server.routes import GENERATING, RouteEntry
from pilothouse.telemetry.logs import log_with_vllm

logger = logging.getLogger(__name__)

MOST_NAMES = 12
"""Of each kind; the catalog has all."""


def log_start(
    plan: Plan,
    routes: Sequence[RouteEntry] = (),
    around: Surroundings | None = None,
    operators: str = "",
) -> None:
    """Log what runs, in one record; for the one process of a server or engine that tells it.

    Args:
        plan: what is loaded.
        routes: every route of the app, and what was decided on it.
        around: what stands around the policies of a server; None where there is no server.
        operators: whom the operator's routes answer, where there is a server.
    """
    log_with_vllm()
    logger.info(
        "Pilothouse %s runs revision %s\n  | %s",
        version("pilothouse"),
        plan.revision,
        log_lines("\n".join(start_lines(plan, routes, around, operators))),
    )


def start_lines(
    plan: Plan,
    routes: Sequence[RouteEntry] = (),
    around: Surroundings | None = None,
    operators: str = "",
) -> Iterator[str]:
    """A line for each kind of thing; doors where there is a server."""
    body = plan.body
    yield f"model: {body.model.model_id}"
    yield _counted("vectors", body.vectors)
    yield _counted("SAEs", body.saes)
    yield _counted("probes", body.probes)
    yield _counted("profiles", body.profiles)
    for mode, told in (("enforce", "policies enforced"), ("shadow", "policies in shadow")):
        yield _counted(told, [each.name for each in plan.policies if each.spec.mode == mode])
    yield _taps(plan)
    yield f"vLLM: {vllm_version()} (tested: {tested_range()})"
    granted = [name for name in ("client_steering", "client_scores") if getattr(body.auth, name)]
    yield _counted("grants to every client", granted)
    if operators:
        yield f"reload, status and catalog are for {operators}"
    if routes:
        yield from _doors(routes)
    if around is not None:
        for each in doors_of(plan, around):
            yield door_line(each)


def door_line(door: Mapping[str, Any]) -> str:
    """A door that stays open, the rules that it leads round, why, and what closes it."""
    past = _counted("past", door["rules"])
    return f"door left open, {door['door']}: {past}: {door['reason']}; {door['remedy']}"


def _taps(plan: Plan) -> str:
    layers: dict[str, list[int]] = {}
    for tap in plan.body.taps:
        layers.setdefault(tap.site, []).append(tap.layer)
    places = [f"{site} of layers {_ranges(found)}" for site, found in layers.items()]
    limits = plan.body.limits
    mib = sum(each.num_bytes for each in planned_memory(plan)) / MIB
    return (
        f"{_counted('taps', places, number=len(plan.body.taps))}; tables {mib:.1f} MiB of "
        f"{limits.table_mib} for {limits.max_programs} programs"
    )


def _doors(routes: Sequence[RouteEntry]) -> Iterator[str]:
    by_kind: dict[str, list[RouteEntry]] = {}
    for each in routes:
        by_kind.setdefault(each.kind, []).append(each)
    yield _counted("doors governed", (each.path for each in by_kind.get("governed", ())))
    harmless = by_kind.get("harmless", [])
    allowed = [each.path for each in harmless if each.reason == "gate.allow"]
    ours = len(by_kind.get("own", ())) + len(by_kind.get("admin", ()))
    yield (
        f"doors open that run no model: {len(harmless)}, and {ours} of Pilothouse's own; "
        + _counted("opened by gate.allow", allowed)
    )
    denied = by_kind.get("denied", [])
    generating = [each.path for each in denied if each.path in GENERATING]
    unknown = [each.path for each in denied if not each.known]
    yield (
        f"doors denied: {len(denied)}; {_counted('that would run the model', generating)}; "
        + _counted("that nothing is known of", unknown)
    )


def _counted(what: str, names: Iterable[str], *, number: int | None = None) -> str:
    found = list(names)
    shown = ", ".join(found[:MOST_NAMES])
    more = f" and {len(found) - MOST_NAMES} more" if len(found) > MOST_NAMES else ""
    count = len(found) if number is None else number
    return f"{what}: {count}" + (f" ({shown}{more})" if found else "")


def _ranges(layers: Collection[int]) -> str:
    """`0-3, 7`: numbers in order, runs of them as one."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
