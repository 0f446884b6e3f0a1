"""Writes a verb's output folder whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pilothouse.errors import ConfigError

MADE = "made"


def check_out(out: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        ConfigError: it does, or it is a file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out: got {out}, which is there already; want a new or empty folder")


@contextmanager
def atomic_output_dir(out: Path) -> Iterator[Path]:
    """Give a folder beside `out`; what is made below `made` in it is moved to `out` at the end.

    On an error nothing stays.
    """
    parent = out.resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=parent, prefix=f".{out.resolve().name}-") as beside:
        yield Path(beside)
        if out.is_dir():
            out.rmdir()
        (Path(beside) / MADE).rename(out)
