"""An environment of older libraries over this one, made once for a run and thrown away."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

LOCK = Path(__file__).resolve().parents[2] / "requirements" / "oracles.txt"


@pytest.fixture(scope="session")
def oracle_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that imports what the lock of the oracles says, and all else from here."""
    folder = tmp_path_factory.mktemp("oracles")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    [packages] = folder.glob("lib/python*/site-packages")
    # Behind the environment's own packages on the path, so that those win.
    (packages / "beneath.pth").write_text(sysconfig.get_path("purelib"))
    words = [
        "pip",
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--no-compile",
        "-r",
        str(LOCK),
    ]
    done = subprocess.run(
        [sys.executable, "-m", *words, "--disable-pip-version-check", "--quiet"],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        reason = f"the package index gave no {LOCK.name}: {done.stderr.strip()[-300:]}"
        if os.environ.get("PILOTHOUSE_REQUIRE_TOOLS"):
            pytest.fail(reason)
        pytest.skip(reason)
    return python
