"""A parity check as a program.

`python -m tests.support.parity.steering qwen3 --v2 --compiled --chunked` runs one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support.models.tiny_architectures import architectures


def run_program(run_check: Callable[..., Mapping[str, float]]) -> None:
    """Run a check with the command line's architecture and settings; tell its largest error."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=sorted(architectures()))
    for flag in ("--v2", "--compiled", "--chunked"):
        parser.add_argument(flag, action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        errors = run_check(
            args.name, Path(folder), v2=args.v2, compiled=args.compiled, chunked=args.chunked
        )
    sys.stdout.write(f"parity holds, largest error {max(errors.values()):.1e}\n")
