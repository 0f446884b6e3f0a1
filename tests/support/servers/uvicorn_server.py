"""A real uvicorn in this process, launched as vLLM launches its own, around any application."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
import uvloop
from starlette.types import ASGIApp


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the test's."""
        yield


@contextmanager
def uvicorn_around(app: ASGIApp, sock: socket.socket) -> Iterator[None]:
    """Serve `app` on a bound socket; uvicorn's settings are its defaults, and vLLM's."""
    config = uvicorn.Config(app, log_level="warning", lifespan="off")
    server = _Server(config)

    async def serve() -> None:
        await server.serve(sockets=[sock])

    thread = threading.Thread(target=lambda: uvloop.run(serve()), daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.started
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        sock.close()
