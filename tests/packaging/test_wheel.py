"""The wheel carries what it needs, and serves the demo from an empty folder."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import httpx
import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
SHELVES = ["policies", "probes/demo", "probes/smol", "examples/demo"]
START_SECONDS = 300


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("pilothouse-*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def tracked(folder: str) -> list[str]:
    done = subprocess.run(
        ["git", "ls-files", folder], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize("shelf", SHELVES)
def test_every_tracked_file_of_the_library_is_in_the_wheel(names: set[str], shelf: str) -> None:
    files = tracked(shelf)
    assert files, f"{shelf} is empty"
    assert {f"pilothouse/_library/{file}" for file in files} <= names


def test_every_module_is_in_the_wheel_and_no_rubbish(names: set[str]) -> None:
    modules = tracked("middleware/pilothouse")
    assert {file.removeprefix("middleware/") for file in modules} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("middleware")]


def test_the_entry_points_are_declared(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith("entry_points.txt")]
        parser = ConfigParser()
        parser.read_string(archive.read(name).decode())
    assert parser["console_scripts"]["pilothouse"] == "pilothouse.cli:main"
    assert "pilothouse" in parser["vllm.general_plugins"]
    assert "pilothouse" in parser["vllm.endpoint_plugins"]


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """An environment that holds the wheel alone.

    The locked set (3 GB) is lent to it by a path file, which does not read the path files of the
    folder that it names, so this checkout's editable install stays out of sight.
    """
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet"]
    subprocess.run([*pip, str(wheel)], check=True, timeout=120)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    lent = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    Path(lent.stdout.strip(), "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv


def clean_environment() -> dict[str, str]:
    dropped = {"PYTHONPATH", "PILOTHOUSE_LIBRARY", "PILOTHOUSE_CONFIG", "VIRTUAL_ENV"}
    return {key: value for key, value in os.environ.items() if key not in dropped}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def demo(installed: Path, tmp_path: Path) -> Iterator[str]:
    """The demo as a user starts it, in a folder with nothing in it; yields its address."""
    empty = tmp_path / "empty"
    empty.mkdir()
    port = free_port()
    process = subprocess.Popen(
        [str(installed / "bin" / "pilothouse"), "demo", "--world", "--port", str(port)],
        cwd=empty,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for_line(process, f"Ready on http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


def wait_for_line(process: subprocess.Popen[str], wanted: str) -> None:
    assert process.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    stream = process.stdout

    def pump() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=pump, daemon=True).start()
    seen: list[str] = []
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            line = lines.get(timeout=1)
        except queue.Empty:
            continue
        if line is None:
            pytest.fail("the demo ended before it was ready:\n" + "".join(seen[-40:]))
        seen.append(line)
        if wanted in line:
            return
    pytest.fail(f"no line with {wanted} in {START_SECONDS} s:\n" + "".join(seen[-40:]))


def stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_installed_package_reads_its_own_files(installed: Path, tmp_path: Path) -> None:
    code = (
        "import pilothouse; from pilothouse.library import library_path; "
        "print(pilothouse.__file__, library_path('policies'), library_path('examples/demo'))"
    )
    python = installed / "bin" / "python"
    done = subprocess.run(
        [python, "-c", code],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(installed)) for path in done.stdout.split())


@pytest.mark.full
@pytest.mark.server
@pytest.mark.timeout(START_SECONDS + 180)
def test_the_wheel_serves_the_demo_from_an_empty_folder(demo: str) -> None:
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 8,
        "temperature": 0,
    }
    answer = httpx.post(f"{demo}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    assert answer.json()["pilothouse"]["decision_id"]
