"""Locks the port of a demo, from before it listens until it ends."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from filelock import FileLock, Timeout

from pilothouse.demo.cache import cache_folder
from pilothouse.errors import ConfigError


def is_held(port: int) -> bool:
    """Say whether a demo of this user runs or is starting on a port.

    vLLM binds its port before it loads the model and listens when it is ready. Until then it cannot
    be told from no server by asking it, nor by binding the port, which the system allows twice.
    """
    try:
        _lock(port).acquire(blocking=False).lock.release()
    except Timeout:
        return True
    except (ConfigError, OSError):
        return False  # where nothing can be written no demo has a lock either
    return False


@contextmanager
def held_port(host: str, port: int) -> Iterator[None]:
    """Lock a port for this process.

    Raises:
        ConfigError: a demo has it, or another program listens there.
    """
    with ExitStack() as held:
        try:
            held.enter_context(_lock(port).acquire(blocking=False))
        except Timeout:
            raise _taken(port, "another demo, which may still be starting") from None
        except (ConfigError, OSError):
            pass  # the invented world needs no folder that can be written, and this is no reason
        if _is_listened_on(host, port):
            raise _taken(port, f"a program that listens on {host}")
        yield


def _lock(port: int) -> FileLock:
    return FileLock(cache_folder("servers") / f"{port}.lock")


def _is_listened_on(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        # As vLLM does, so that connections which a server that has ended left do not count.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise ConfigError(f"--host {host}, --port {port}: {error.strerror}") from error
    return False


def _taken(port: int, by: str) -> ConfigError:
    return ConfigError(f"--port: {port} is taken by {by}: stop it, or name another --port")
