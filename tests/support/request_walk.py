"""The files that one streamed, steered chat under an output rule runs through.

`python -m tests.support.request_walk` serves the tiny model, sends one such chat and prints the
files of the package that ran for it, by process: the API server and the engine core, which has the
worker in it on one device.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.servers.server_process import ServerProcess, serve_process
from tests.support.servers.tiny_deployment import SERVED_NAME, make_tiny_house

PACKAGE = Path(__file__).parents[2] / "middleware" / "pilothouse"
TRACER = Path(__file__).parent / "file_trace"


@dataclass(frozen=True)
class TracedServer:
    """A server whose processes tell their files from when `trace` exists."""

    server: ServerProcess
    trace: Path

    def walk(self) -> dict[str, set[str]]:
        """Send the chat; return the files that ran for it, below the package, by process."""
        body = {
            "model": f"{SERVED_NAME}:output-late",
            "messages": [{"role": "user", "content": "hello there"}],
            "max_tokens": 12,
            "temperature": 0,
            "stream": True,
            "pilothouse": {"steer": [{"vector": "nudge", "scale": 1.0}]},
        }
        self.trace.touch()
        answer = httpx.post(f"{self.server.url}/v1/chat/completions", json=body, timeout=120)
        assert answer.status_code == httpx.codes.OK, answer.text
        assert "content_filter" in answer.text, answer.text
        found: dict[str, set[str]] = defaultdict(set)
        for line in self.trace.read_text(encoding="utf-8").splitlines():
            process, _, file = line.partition("\t")
            found[process].add(file)
        return dict(found)


@contextmanager
def traced_server(house: Path, folder: Path) -> Iterator[TracedServer]:
    """`pilothouse serve` on the tiny model of a configuration; its log and trace in `folder`."""
    trace = folder / "files.txt"
    paths = [str(TRACER), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"FILE_TRACE": str(trace), "PYTHONPATH": os.pathsep.join(paths)}
    with serve_process(house, SERVED_NAME, folder / "server.txt", **environment) as process:
        yield TracedServer(process, trace)


def main() -> None:
    """Print the walk and how long it is."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with traced_server(make_tiny_house(folder), folder) as server:
            walk = server.walk()
    for process, files in sorted(walk.items()):
        sys.stdout.write(f"{process}: {len(files)} files\n")
        for file in sorted(files):
            num_lines = (PACKAGE / file).read_text(encoding="utf-8").count("\n")
            sys.stdout.write(f"  {file} {num_lines}\n")
    every = set().union(*walk.values())
    sys.stdout.write(f"{len(every)} files in all\n")


if __name__ == "__main__":
    main()
