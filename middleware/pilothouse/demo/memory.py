"""How much memory a server may still take: the kernel's figure, or a container's if less."""

from __future__ import annotations

from pathlib import Path
from typing import Final

GIB: Final = 2**30
CGROUPS: Final = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
"""A container's limit and what it uses, in both editions of the kernel's interface."""


def available_bytes(
    meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int:
    """Return what can be had without swapping; free pages alone would leave out file caches."""
    lines = meminfo.read_text(encoding="ascii").splitlines()
    [line] = [each for each in lines if each.startswith("MemAvailable:")]
    found = [int(line.split()[1]) * 1024]
    for limit_name, used_name in CGROUPS:
        limit, used = _number(cgroup / limit_name), _number(cgroup / used_name)
        if limit is not None and used is not None:
            found.append(max(0, limit - used))
    return min(found)


def _number(path: Path) -> int | None:
    """Return what a file of one number holds; none where there is no limit, which reads `max`."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
