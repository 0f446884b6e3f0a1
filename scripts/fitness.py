"""Whether this machine, and a Python on it, can run vLLM's CPU build: one clear line when not.

Standard library only, and plain enough for Python 3.6: it may have to say that Python is too old.
"""

import ctypes
import os
import platform
import shutil
import subprocess
import sys

PYTHON_WANTED = (3, 11)
MEMORY_WANTED_GIB = 6
DISK_WANTED_GIB = 8
GLIBC_WANTED = (2, 28)
MACHINES = ("x86_64", "aarch64", "arm64")
GIB = 1024.0**3


class Unfit(Exception):
    """This machine, or this Python, cannot run Pilothouse: one line, exit 2."""


def first_number(path):
    """Return the number a one-value file holds, or None where it holds none ("max")."""
    try:
        with open(path) as file:
            return int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def memory_available(proc="/proc/meminfo", cgroup="/sys/fs/cgroup"):
    """Return the bytes a new process can have: the kernel's figure, or a container's if less."""
    figures = {}
    with open(proc) as file:
        for line in file:
            name, _, rest = line.partition(":")
            figures[name] = int(rest.split()[0]) * 1024
    available = figures.get("MemAvailable", figures.get("MemFree", 0))
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit = first_number(os.path.join(cgroup, limit_name))
        used = first_number(os.path.join(cgroup, used_name))
        if limit is not None and used is not None:
            available = min(available, max(0, limit - used))
    return available


def cpu_flags(path="/proc/cpuinfo"):
    """Return the processor's feature flags, empty where the kernel does not list them."""
    with open(path) as file:
        for line in file:
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()


def glibc_version():
    """Return glibc's version as the running process sees it, or None on another C library."""
    try:
        name, version = os.confstr("CS_GNU_LIBC_VERSION").split()
    except (AttributeError, OSError, ValueError):
        return None
    return tuple(int(part) for part in version.split(".")[:2]) if name == "glibc" else None


def check_machine(system, machine, glibc, flags):
    """Raise Unfit unless vLLM's CPU build can run on this system and processor."""
    if system != "Linux":
        raise Unfit(
            "this is %s; vLLM's CPU build is made for Linux on x86_64 or arm64: "
            "use a Linux machine, a virtual machine or the image in deploy/" % (system or "unknown")
        )
    if machine not in MACHINES:
        raise Unfit("the processor is %s; wanted x86_64 or arm64" % (machine or "unknown"))
    if machine == "x86_64" and flags and "avx2" not in flags:
        raise Unfit("the processor has no AVX2, which vLLM's CPU build needs: use a newer machine")
    if glibc is None:
        raise Unfit("the C library is not glibc; the wheels want glibc 2.28 or newer")
    if glibc < GLIBC_WANTED:
        raise Unfit(
            "glibc is %d.%d; the wheels want 2.28 or newer: use a newer distribution" % glibc
        )


def check_libraries(load):
    """Raise Unfit unless what the wheels expect of the system is there; `load` opens a library."""
    try:
        load("libnuma.so.1")
    except OSError:
        raise Unfit(
            "libnuma.so.1 is missing, which vLLM's CPU build loads: on Debian or Ubuntu, "
            "apt install libnuma1; on Fedora, dnf install numactl-libs"
        ) from None


def check_memory(available_bytes):
    """Raise Unfit when a server could not start in the memory that is free."""
    if available_bytes < MEMORY_WANTED_GIB * GIB:
        raise Unfit(
            "%.1f GiB of memory is free; wanted at least %d GiB: stop other programs, or raise the "
            "container's limit" % (available_bytes / GIB, MEMORY_WANTED_GIB)
        )


def check_disk(folder):
    """Raise Unfit when the packages would not fit beside `folder`."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < DISK_WANTED_GIB * GIB:
        raise Unfit(
            "%.1f GiB of disk is free under %s; wanted at least %d GiB: make room, or clone "
            "elsewhere" % (free_bytes / GIB, folder, DISK_WANTED_GIB)
        )


PROBE = """
import struct, sys
print(sys.version_info[0], sys.version_info[1], struct.calcsize("P") * 8)
import ensurepip, ssl, venv
"""


def candidates():
    """Yield the Pythons worth trying, best first: $PYTHON, ours, those on the path, pyenv's."""
    if os.environ.get("PYTHON"):
        yield os.environ["PYTHON"]
    yield sys.executable
    for name in ("python3.11", "python3", "python"):
        found = shutil.which(name)
        if found:
            yield found
    for home in (os.environ.get("PYENV_ROOT"), os.path.expanduser("~/.pyenv")):
        versions = os.path.join(home, "versions") if home else ""
        if os.path.isdir(versions):
            for name in sorted(os.listdir(versions), reverse=True):
                if name.startswith("3.11"):
                    yield os.path.join(versions, name, "bin", "python3.11")
    yield "/usr/bin/python3.11"
    yield "/usr/local/bin/python3.11"


def describe(python):
    """Return ((major, minor), what is wrong with it): the version is None if it does not start."""
    try:
        done = subprocess.run(
            [python, "-c", PROBE],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if not done.stdout:
        return None, last or "does not start"
    major, minor, bits = (int(part) for part in done.stdout.split())
    if bits != 64:
        return (major, minor), "is a %d-bit build" % bits
    if done.returncode != 0:
        return (major, minor), "lacks a module (%s; on Debian: apt install python3.11-venv)" % last
    return (major, minor), ""


def find_python():
    """Return the path of a Python of the wanted version, or raise Unfit saying what was found."""
    seen, found = set(), []
    for python in candidates():
        if python in seen:
            continue
        seen.add(python)
        version, problem = describe(python)
        if version == PYTHON_WANTED and not problem:
            return python
        if version is not None:
            found.append(
                "%s is %d.%d" % ((python, version[0], version[1]))
                + (", " + problem) * bool(problem)
            )
    raise Unfit(
        "no usable Python 3.11 was found (%s): install one, then run again, or name it with "
        "PYTHON=/path/to/python3.11" % ("; ".join(found[:4]) or "none at all")
    )


def check_all():
    """Raise Unfit at the first thing that keeps this machine from running a server."""
    system = platform.system()
    flags = cpu_flags() if system == "Linux" else set()
    check_machine(system, platform.machine(), glibc_version(), flags)
    check_libraries(ctypes.CDLL)
    check_memory(memory_available())
