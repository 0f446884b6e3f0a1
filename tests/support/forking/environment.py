"""Which variables an import reads, so that only programs that agree on them are forked.

What Python code reads is recorded while it is imported. What native libraries read as they are
loaded cannot be seen from here and is named below by prefix.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType

NATIVE = (
    "ATEN_", "BLIS_", "DNNL_", "GOMP_", "GOTO_", "KMP_", "LC_", "LD_", "MALLOC_", "MKL_",
    "NETWORKX_", "NUMBA_", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTHON", "PYTORCH_", "RAYON_", "TORCH_",
    "TQDM_",
)  # fmt: skip
"""Of variables that native code reads when it is loaded, or that are searched for by prefix."""

NO_MATTER = frozenset(
    {
        "COLUMNS", "LINES", "OLDPWD", "PWD", "SHLVL", "TERM", "VLLM_LOGGING_LEVEL", "VLLM_PLUGINS",
        "_",
    }
)  # fmt: skip
"""Read by an import, which comes out the same. vLLM looks its two up again, the level when it
configures its logger and the list whenever it loads plugins: at import it asks for those of a
platform, of which the locked set has none."""

TESTS_OWN = ("PYTEST_", "PILOTHOUSE_TESTS_")
"""Begin the variables that are about the tests which are running."""

SET_FOR_WORKERS = frozenset(
    {"GOMP_CPU_AFFINITY", "LD_PRELOAD", "OMP_NUM_THREADS", "OMP_PLACES", "OMP_PROC_BIND"}
)
"""What vLLM sets for a worker on a CPU: which allocator it has and which core its threads keep to.
A forked worker does without; its arithmetic is the same."""


@contextmanager
def recorded_reads() -> Iterator[set[str]]:
    """The names that Python code looks up in `os.environ` meanwhile.

    A line that goes through all of them does not count: it copies them for a program, or looks for
    a prefix, and those are in `NATIVE`.
    """
    kind = type(os.environ)
    looked_up, contained, iterated = kind.__getitem__, kind.__contains__, kind.__iter__
    names: set[str] = set()
    through: set[tuple[CodeType, int]] = set()

    def note(name: object) -> None:
        frame = _asker()
        if (frame.f_code, frame.f_lineno) not in through:
            names.add(str(name))

    def __getitem__(self: os._Environ[str], name: str) -> str:
        note(name)
        return looked_up(self, name)

    def __contains__(self: os._Environ[str], name: object) -> bool:
        note(name)
        return contained(self, name)

    def __iter__(self: os._Environ[str]) -> Iterator[str]:
        frame = _asker()
        through.add((frame.f_code, frame.f_lineno))
        return iterated(self)

    kind.__getitem__, kind.__contains__ = __getitem__, __contains__  # type: ignore[method-assign]
    kind.__iter__ = __iter__  # type: ignore[method-assign]
    try:
        yield names
    finally:
        kind.__getitem__, kind.__contains__ = looked_up, contained  # type: ignore[method-assign]
        kind.__iter__ = iterated  # type: ignore[method-assign]


def _asker() -> FrameType:
    """The frame that used `os.environ`, below those of its methods and views."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__") in (
        __name__, "os", "collections.abc", "_collections_abc",
    ):  # fmt: skip
        frame = frame.f_back
    return frame


@dataclass(frozen=True)
class Imported:
    """What imports found in the environment, and what they left there."""

    before: dict[str, str]
    after: dict[str, str]
    read: set[str]
    """The names that they looked up."""

    def changed(self) -> dict[str, str]:
        """What they set themselves, as they would in any program."""
        return {name: value for name, value in self.after.items() if self.before.get(name) != value}

    def disagreements(
        self, wanted: Mapping[str, str], ignored: frozenset[str] = frozenset()
    ) -> list[str]:
        """The variables of which these imports would have found another value under `wanted`.

        What the imports set counts as found: whoever asks may have imported the same.
        """
        native = {name for name in {*self.before, *wanted} if name.startswith(NATIVE)}
        names = (
            {name for name in self.read | native if not name.startswith(TESTS_OWN)}
            - NO_MATTER
            - ignored
        )
        return sorted(
            name
            for name in names
            if wanted.get(name) not in (self.before.get(name), self.after.get(name))
        )
