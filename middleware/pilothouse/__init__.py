"""Pilothouse: steering and monitoring inside the forward pass of a vLLM server.

`from pilothouse import LLM, Steer` for offline use; loading `LLM` loads vLLM. `CaptureReader` reads
what `LLM.capture` wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pilothouse.capture.reader import CaptureReader
    from pilothouse.llm import LLM
    from pilothouse.term import SteerTerm as Steer

__all__ = ["LLM", "CaptureReader", "Steer", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`LLM`, `CaptureReader` and `Steer`, when they are asked for."""
    if name == "LLM":
        from pilothouse.llm import LLM

        return LLM
    if name == "CaptureReader":
        from pilothouse.capture.reader import CaptureReader

        return CaptureReader
    if name == "Steer":
        from pilothouse.term import SteerTerm

        return SteerTerm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
