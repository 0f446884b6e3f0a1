"""Take each protection out of a copy of the package and show that its test notices.

`python tests/mutants/run.py [NAME ...]` runs all mutants, or those whose names contain one of the
words, as many at a time as there are cores unless `--jobs` says otherwise. Exit 1 if a mutant
survives or its code is not found.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

# The folder of this script is on the path.
from mutants import MUTANTS, Mutant
from source import MutantError, Package

CHECKOUT = Path(__file__).resolve().parents[2]
SOURCE = CHECKOUT / "middleware"
PATIENCE_SECONDS = 300
NOTHING_SELECTED = 5


def mutated(mutant: Mutant, package: Package, folder: Path) -> None:
    """Copy the package and apply the mutant.

    Raises:
        MutantError: its code is not there exactly once.
    """
    file, text = package.mutated(mutant.within, mutant.snippet, mutant.replacement)
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / file.relative_to(SOURCE)).write_text(text, encoding="utf-8")


def run_tests(mutant: Mutant, folder: Path) -> tuple[str, str]:
    """(`killed`, `survived` or `broken`, pytest's last line).

    A mutant that only tests of the full suite can see is shown to those.
    """
    ran = _pytest(mutant, folder, "-m", "not full")
    if ran.returncode == NOTHING_SELECTED:
        ran = _pytest(mutant, folder)
    lines = [line for line in ran.stdout.splitlines() if line.strip()]
    last = lines[-1] if lines else ran.stderr.strip()[-100:]
    # An engine that a mutant ends may fail a fixture, which is an error of the test.
    if ran.returncode == 1 and re.search(r"\b[1-9]\d* (failed|error)", last):
        return "killed", last
    return ("survived" if ran.returncode == 0 else "broken"), last


def _pytest(mutant: Mutant, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    inherited = os.environ.get("PYTHONPATH")
    path = [str(folder), str(CHECKOUT), *([inherited] if inherited else [])]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        *words,
        "--timeout",
        str(PATIENCE_SECONDS),
        *mutant.tests,
        *(["-k", mutant.only] if mutant.only else []),
    ]
    return subprocess.run(
        command,
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )


def shown(mutant: Mutant, package: Package) -> tuple[str, str]:
    """The outcome, and the row that is printed of it."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "middleware"
        try:
            mutated(mutant, package, copy)
        except MutantError as error:
            outcome, last = "broken", str(error)
        else:
            outcome, last = run_tests(mutant, copy)
    seconds = time.monotonic() - started
    tests = " ".join(Path(each).name for each in mutant.tests)
    row = (
        f"{mutant.invariant:<16} {mutant.name:<44} {outcome:<9} {seconds:5.0f}  "
        f"{tests} {mutant.only}"
    ).rstrip()
    return outcome, row if outcome == "killed" else f"{row}\n    {last}"


def main() -> int:
    """Run, print a row for each, count survivors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="part of a mutant's name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    asked = parser.parse_args()
    words = asked.names or [""]
    chosen = [each for each in MUTANTS if any(word in each.name for word in words)]
    print(f"{'invariant':<16} {'mutant':<44} {'outcome':<9} {'s':>5}  test")
    killed = 0
    with ThreadPoolExecutor(max(1, asked.jobs)) as pool:
        for outcome, row in pool.map(partial(shown, package=Package(SOURCE)), chosen):
            killed += outcome == "killed"
            print(row, flush=True)
    print(f"{killed} of {len(chosen)} mutants killed")
    return 0 if killed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
