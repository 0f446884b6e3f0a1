"""A package index of this machine: real files, real pip, no network."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pilothouse.demo.wheels import WHEELS, Wheel

TAG = "py3-none-any"


def write_wheel(folder: Path, name: str, version: str, files: Mapping[str, bytes]) -> Wheel:
    """Write a wheel that holds these files, and return how it would be pinned."""
    stem = f"{name.replace('-', '_')}-{version}"
    about = f"{stem}.dist-info"
    inside = {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{about}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {TAG}\n".encode(),
        f"{about}/RECORD": b"",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{TAG}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, data in {**files, **inside}.items():
            archive.writestr(inner, data)
    data = path.read_bytes()
    return Wheel(name, version, hashlib.sha256(data).hexdigest(), len(data), "Apache-2.0")


def pin(wheel: Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `WHEELS` hold this wheel under its name."""
    monkeypatch.setattr("pilothouse.demo.wheels.WHEELS", {**WHEELS, wheel.name: wheel})


def use_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pip know a folder of wheels, and nothing else."""
    for name, value in offline(folder).items():
        monkeypatch.setenv(name, value)


def offline(folder: Path) -> dict[str, str]:
    """Return the variables that have pip know a folder of wheels, and nothing else."""
    return {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}


@contextmanager
def stalling_index(wheel: Path) -> Iterator[tuple[str, threading.Event]]:
    """Serve one wheel: yield the index's address, and what is set once half of it is sent.

    The other half never comes.
    """
    half_sent, over = threading.Event(), threading.Event()
    data = wheel.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_page = not self.path.endswith(".whl")
            page = f'<a href="/{wheel.name}">{wheel.name}</a>'.encode()
            body = page if is_page else data
            self.send_response(200)
            self.send_header("content-type", "text/html" if is_page else "application/zip")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if is_page else body[: len(body) // 2])
            self.wfile.flush()
            if not is_page:
                half_sent.set()
                over.wait(60)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple", half_sent
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
