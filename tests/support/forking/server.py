"""A parent that has imported vLLM's server once, and forks the programs of tests.

`python -c "from tests.support.forking.server import main; main(ADDRESS)"`, which is what
`client.py` runs. It ends when the last of those that keep a line to it has gone.
"""

from __future__ import annotations

import gc
import importlib
import os
import selectors
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.forking.client import fork_inspections
from tests.support.forking.environment import Imported, recorded_reads
from tests.support.forking.program import Request, enter, run_to_the_end
from tests.support.forking.wire import REFUSED, receive_request, send_number

CHECKOUT = Path(__file__).resolve().parents[3]
PRELOADED = (
    "torch", "transformers", "transformers.models.auto.tokenization_auto", "numba", "scipy.stats",
    "vllm.entrypoints.cli.serve", "vllm.entrypoints.llm", "vllm.v1.engine.core",
    "vllm.v1.engine.async_llm", "vllm.v1.worker.cpu_worker", "vllm.v1.executor.uniproc_executor",
    "vllm.v1.executor.multiproc_executor", "vllm.model_executor.models.qwen3",
    "pilothouse.llm", "pilothouse.cli.main", "pilothouse.cli.launch", "pilothouse.engine.worker",
    "pilothouse.engine.scheduler", "pilothouse.server.endpoint", "pilothouse.server.gate",
)  # fmt: skip


@dataclass
class Server:
    """Who is connected, what runs for whom."""

    listener: socket.socket
    imported: Imported
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    links: set[socket.socket] = field(default_factory=set)
    members: set[socket.socket] = field(default_factory=set)
    running: dict[int, socket.socket] = field(default_factory=dict)
    tethered: set[int] = field(default_factory=set)

    def serve(self) -> Request:
        """Fork until nobody is left; returns in each child, with what it is to run."""
        woken, wake = os.pipe()
        for end in (woken, wake):
            os.set_blocking(end, False)
        # A Python handler has to be there for the wake-up to be written.
        ours = {signal.SIGCHLD: lambda *_: None, signal.SIGINT: signal.SIG_IGN}
        before = {number: signal.signal(number, handler) for number, handler in ours.items()}
        signal.set_wakeup_fd(wake)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in self.selector.select():
                if key.fileobj == woken:
                    os.read(woken, 1 << 16)
                    self._reap()
                elif key.fileobj is self.listener:
                    link = self.listener.accept()[0]
                    self.links.add(link)
                    self.selector.register(link, selectors.EVENT_READ)
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    request = self._hear(key.fileobj, before, [woken, wake])
                    if request is not None:
                        return request

    def _hear(
        self, link: socket.socket, handlers: dict[Any, Any], own: list[int]
    ) -> Request | None:
        """Read what came from a link; its request, in a child that was forked for it."""
        try:
            heard = receive_request(link)
        except OSError:
            heard = None
        if heard is None:
            self._forget(link)
            return None
        message, stdio = heard
        if message.get("member"):
            self.members.add(link)
            return None
        request = Request(**message)
        if self.imported.disagreements(request.environment):
            for fd in stdio:
                os.close(fd)
            send_number(link, REFUSED)
            return None
        pid = os.fork()
        if pid == 0:
            self.selector.close()
            for each in (self.listener, *self.links):
                each.close()
            for fd in own:
                os.close(fd)
            enter(request, self.imported, stdio, handlers)
            return request
        for fd in stdio:
            os.close(fd)
        self.running[pid] = link
        if request.tethered:
            self.tethered.add(pid)
        send_number(link, pid)
        return None

    def _reap(self) -> None:
        while self.running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            link = self.running.pop(pid, None)
            self.tethered.discard(pid)
            if link is not None and link in self.links:
                try:
                    send_number(link, os.waitstatus_to_exitcode(status))
                except OSError:
                    self._forget(link)

    def _forget(self, link: socket.socket) -> None:
        """Let go of a link: end what was tethered to it, and ourselves with the last member."""
        for pid, owner in self.running.items():
            if owner is link and pid in self.tethered:
                os.kill(pid, signal.SIGKILL)
        self.selector.unregister(link)
        self.links.discard(link)
        link.close()
        if link in self.members:
            self.members.discard(link)
            if not self.members:
                os._exit(0)


def preload() -> Imported:
    """Import what programs import."""
    before = dict(os.environ)
    with recorded_reads() as read:
        for name in PRELOADED:
            importlib.import_module(name)
    fork_inspections()
    return Imported(before, dict(os.environ), read)


def main(address: str) -> None:
    """Import, listen, and in each child be what was asked for."""
    sys.path.remove("")
    imported = preload()
    # What is collected in a child would touch, and so copy, every page of the parent.
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        sys.stdout.flush()
        sys.stderr.flush()
        request = Server(listener, imported).serve()
    run_to_the_end(request.arguments)
