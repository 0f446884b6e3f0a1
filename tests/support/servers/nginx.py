"""A real nginx in front of a server, as a proxy on the same machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.servers.server_process import free_port

START_SECONDS = 20
ADMIN_FOLDERS = ("/usr/sbin", "/usr/local/sbin")
"""Where Debian puts it; a user's PATH may leave them out."""


def nginx_path() -> str:
    """The binary; without it the test is skipped, or fails where it must run."""
    folders = os.pathsep.join([os.environ.get("PATH", ""), *ADMIN_FOLDERS])
    found = shutil.which("nginx", path=folders)
    if found is not None:
        return found
    reason = "nginx is not installed (on Debian: apt install nginx-light)"
    if os.environ.get("PILOTHOUSE_REQUIRE_TOOLS"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def nginx_before(upstream: str, folder: Path, directives: Sequence[str] = ()) -> Iterator[str]:
    """Have nginx pass everything on to `upstream`; gives its URL.

    Args:
        directives: of the one location, each with its semicolon: what it says of its client.
    """
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
        "events {}\nhttp {\n  access_log off;\n"
        + "".join(f"  {kind}_temp_path {folder}/{kind};\n" for kind in kinds)
        + f"  server {{\n    listen 127.0.0.1:{port};\n    location / {{\n"
        f"      proxy_pass {upstream};\n      proxy_buffering off;\n"
        + "".join(f"      {each}\n" for each in directives)
        + "    }\n  }\n}\n"
    )
    process = subprocess.Popen(
        [nginx_path(), "-c", str(file), "-p", str(folder)], stderr=subprocess.PIPE
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, url)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS)


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(url, timeout=5)
            return
        except httpx.HTTPError:
            time.sleep(0.05)
    process.kill()
    told = process.stderr.read().decode(errors="replace") if process.stderr is not None else ""
    raise RuntimeError(f"nginx does not answer: {told[-2000:]}")
