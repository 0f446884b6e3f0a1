"""Tests over several processes: how many, and which tests stay together in one.

A process is a worker of pytest-xdist; `-n auto --dist loadfile --no-loadscope-reorder` starts them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
from xdist.scheduler import LoadFileScheduling

SHARED_SERVERS = ("small_server", "demo_server")
"""Fixtures of the session that start a server, which every process that asks would start anew."""
PROCESS_BYTES = 4 << 30
"""What a process may come to hold: its engine, and servers with their cores and workers."""


def process_count(cores: int, free_bytes: int) -> int:
    """One per core, as far as the memory goes."""
    return max(1, min(cores, free_bytes // PROCESS_BYTES))


@cache
def group_of(file: Path) -> str:
    """The server that a file of tests shares with others by asking for it, or the file alone."""
    text = file.read_text(encoding="utf-8")
    return next((name for name in SHARED_SERVERS if name in text), file.as_posix())


def weight_of(group: str, marks: Iterable[str]) -> int:
    """0 where a server is shared, 1 where a file has servers or engines of its own, 2 otherwise.

    What is light runs last, so that no process is left with something long when others are done.
    """
    if group in SHARED_SERVERS:
        return 0
    return 2 if {"server", "engine"}.isdisjoint(marks) else 1


class GroupScheduling(LoadFileScheduling):  # type: ignore[misc]
    """As `--dist loadfile`, but files that share a server go to one process too."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(self.config.rootpath / nodeid.split("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means, unless PYTEST_XDIST_AUTO_NUM_WORKERS says how many."""
    wanted = os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS")
    if wanted:
        return int(wanted)
    return process_count(len(os.sched_getaffinity(0)), psutil.virtual_memory().available)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling | None:
    """The groups, where files are what stays together."""
    return GroupScheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put long groups first in every process; all must agree on the order."""
    if not hasattr(config, "workerinput"):
        return
    marks: dict[Path, set[str]] = {}
    for item in items:
        marks.setdefault(item.path, set()).update(each.name for each in item.iter_markers())
    items.sort(key=lambda item: weight_of(group_of(item.path), marks[item.path]))
