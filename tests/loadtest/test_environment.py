"""Other programs' share of the machine is seen, and our own is not counted as theirs."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from environment import OtherWork, environment

BURNS = "import time\nend = time.process_time() + 1.0\nwhile time.process_time() < end: pass"


class Known:
    """A process that belongs to the measurement."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process

    def cpu_seconds(self) -> float:
        return float(sum(self._process.cpu_times()[:2]))


class Ended:
    """One that used a second of processor time and has ended."""

    def __init__(self) -> None:
        self.used = 0.0

    def cpu_seconds(self) -> float:
        return self.used


def test_a_program_of_ours_is_told_from_a_program_of_others() -> None:
    ours = Ended()
    with_it, without = OtherWork((ours,)), OtherWork(())
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", BURNS], check=True)
    ours.used = 1.0
    seconds = time.monotonic() - began
    # Whatever else runs counts in both alike: they differ by the second that is known as ours.
    difference = without.cores() - with_it.cores()
    assert 0.5 < difference * seconds < 1.5
    assert without.cores() * seconds > 0.5


def test_the_environment_names_what_figures_depend_on() -> None:
    told = environment()
    assert told["packages"]["torch"]
    assert told["cores"] >= 1
    assert told["processor"]
    assert len(told["commit"] or "0" * 40) == 40
