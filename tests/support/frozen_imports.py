"""Collecting garbage around an engine, without going through all that was imported.

vLLM collects several times when an engine starts and when it ends, and thaws whatever is frozen
before. The modules of a test process are millions of objects, which takes it seconds of each
engine's life. So what is there before an engine is frozen, and stays so while the engine lives.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

_alive = 0


@contextmanager
def frozen_imports() -> Iterator[None]:
    """Do not look through what exists now; what is made meanwhile is collected as ever.

    Only the outermost of several freezes: an engine that another is started beside will be garbage.
    """
    global _alive
    if not _alive:
        gc.collect()
        gc.freeze()
    _alive += 1
    try:
        with patch("gc.freeze"), patch("gc.unfreeze"):
            yield
    finally:
        _alive -= 1
