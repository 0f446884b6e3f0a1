"""The peak is seen though it has passed, and shared pages count once."""

from __future__ import annotations

import subprocess
import sys

import psutil

from peak_memory import PeakMemory

MIB = 2**20
PASSING = """
import sys
held = bytearray(200 << 20)
print("held", flush=True)
sys.stdin.readline()
del held
print("free", flush=True)
sys.stdin.readline()
"""
FORKED = """
import os, sys
held = b"x" * (200 << 20)
child = os.fork()
if child == 0:
    print("held", flush=True)
sys.stdin.readline()
"""


def started(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def test_the_peak_stays_when_it_has_passed() -> None:
    with started(PASSING) as process:
        assert process.stdin is not None
        memory = PeakMemory(lambda: family(process))
        assert told(process) == "held"
        memory.sample()
        process.stdin.write("\n")
        process.stdin.flush()
        assert told(process) == "free"
        memory.sample()
        process.communicate("\n")
    assert 200 < memory.proportional_mib < 300
    assert memory.processes == 1


def test_pages_that_a_fork_shares_count_once() -> None:
    with started(FORKED) as process:
        assert told(process) == "held"
        memory = PeakMemory(lambda: family(process))
        memory.sample()
        process.communicate("\n\n")
    assert memory.processes == 2
    assert 200 < memory.proportional_mib < 300 < memory.resident_mib


def test_samples_come_by_themselves_while_it_is_open_and_none_of_nobody() -> None:
    with started(PASSING) as process:
        assert told(process) == "held"
        with PeakMemory(lambda: family(process), every_s=0.01) as memory:
            while not memory.processes:
                pass
        process.communicate("\n\n")
    assert memory.proportional_mib > 200
    nobody = PeakMemory(list)
    nobody.sample()
    assert (nobody.processes, nobody.resident_mib) == (0, 0.0)
