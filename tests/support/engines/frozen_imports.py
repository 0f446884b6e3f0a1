"""Collecting garbage around an engine, without going through all that was imported.

vLLM collects several times when an engine starts and when it ends, and thaws whatever is frozen
before. The modules of a test process are millions of objects, which takes it seconds of each
engine's life. So what is there before a file's tests is frozen, and stays so for them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch


@contextmanager
def frozen_imports() -> Iterator[None]:
    """Do not look through what exists now; what is made meanwhile is collected as ever."""
    gc.collect()
    gc.freeze()
    with patch("gc.freeze"), patch("gc.unfreeze"):
        yield
