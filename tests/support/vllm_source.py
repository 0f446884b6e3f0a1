"""The reader of source that is not installed, which lives beside `make compat`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "vllm_source.py"


def unpacked(folder: Path) -> Any:
    """Return the release whose `vllm` package lies in a folder."""
    spec = importlib.util.spec_from_file_location("vllm_source", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Unpacked(folder)
