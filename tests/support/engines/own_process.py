"""Checks that run as programs: an engine with a compiler, or several workers, once per process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pilothouse

CHECKOUT = Path(__file__).parents[3]
PACKAGES = Path(pilothouse.__file__).parents[1]
"""Where the package under test lies: in a mutant's run, another place than the checkout's."""
TRITON_STAND_IN = Path(__file__).with_name("triton_cpu")


def in_own_process(cache: Path, *arguments: str, program: str) -> None:
    """Run a check of parity as a program."""
    assert "parity holds" in said_by(program, cache, *arguments)


def said_by(program: str, cache: Path, *arguments: str) -> str:
    """What a module of the tests prints, run with a compile cache of its own.

    Raises:
        AssertionError: it did not end well; with the end of its stderr.
    """
    changes = {
        "VLLM_CACHE_ROOT": str(cache / "cache"),
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_PLUGINS": "",
    }
    path = [str(PACKAGES), str(CHECKOUT)]
    if "--v2" in arguments:
        changes |= {"PILOTHOUSE_TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
        path.insert(0, str(TRITON_STAND_IN))
    inherited = os.environ.get("PYTHONPATH")
    changes["PYTHONPATH"] = os.pathsep.join([*path, inherited] if inherited else path)
    ran = subprocess.run(
        [sys.executable, "-m", program, *arguments],
        cwd=CHECKOUT,
        env=os.environ | changes,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    return ran.stdout
