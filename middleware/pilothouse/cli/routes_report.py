"""The route table in words: what each route that is known of gets."""

from __future__ import annotations

from pathlib import Path

from pilothouse.config import load_config
from pilothouse.errors import PilothouseError
from pilothouse.server.routes import ADMIN, DENIED, GOVERNED, HARMLESS, OWN, RouteTable


def routes_report(config_path: Path | None) -> list[dict[str, str]]:
    """Path, verdict and reason, governed ones first; the operator's `gate.allow` is in it."""
    table = RouteTable(_allowed(config_path))
    paths = [*GOVERNED, *OWN, *ADMIN, *HARMLESS, *sorted(table.allow), *DENIED]
    return [_line(path, table) for path in dict.fromkeys(paths)] + [
        {"path": "(any other)", "verdict": "denied", "reason": "not on the list"}
    ]


def _line(path: str, table: RouteTable) -> dict[str, str]:
    verdict = table.judge("OPTIONS", path)
    reason = verdict.reason or (HARMLESS[path].reason if path in HARMLESS else "")
    return {"path": path, "verdict": verdict.kind, "reason": reason}


def _allowed(config_path: Path | None) -> tuple[str, ...]:
    try:
        return load_config(config_path).gate.allow if config_path is not None else ()
    except PilothouseError:
        return ()  # what is wrong with the file is reported beside the routes
