"""Tells how much memory can be had: the kernel's figure, or a container's if less."""

from __future__ import annotations

from pathlib import Path
from typing import Final

GIB: Final = 2**30
CGROUPS: Final = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
"""A container's limit, what it uses, and which of its figures says how much of that are files that
can be dropped: in both versions of the kernel's interface."""


def available_bytes(
    meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int:
    """Return what can be had without swapping; free pages alone would leave out file caches."""
    found = [_figure(meminfo, "MemAvailable:") * 1024]
    for limit_name, used_name, stat_name, files_name in CGROUPS:
        limit, used = _number(cgroup / limit_name), _number(cgroup / used_name)
        if limit is not None and used is not None:
            held = used - _figure(cgroup / stat_name, files_name)
            found.append(max(0, limit - held))
    return min(found)


def _number(path: Path) -> int | None:
    """Return what a file of one number holds; none where there is no limit, which reads `max`."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _figure(path: Path, name: str) -> int:
    """Return a figure of a file of names and figures, 0 where it has none of that name."""
    try:
        lines = [each.split() for each in path.read_text(encoding="ascii").splitlines()]
    except OSError:
        return 0
    return next((int(line[1]) for line in lines if line and line[0] == name), 0)
