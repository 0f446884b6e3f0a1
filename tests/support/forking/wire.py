"""How a program is asked for: one message on a Unix socket, answered by numbers.

The asker sends a JSON object with the three files of its stdio, and reads the process id, or
`REFUSED`, and later the exit code as `subprocess` counts it.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

REFUSED = -1
_LENGTH = struct.Struct("!I")
_NUMBER = struct.Struct("!q")


def send_request(link: socket.socket, request: dict[str, Any], stdio: Sequence[int]) -> None:
    """Send a message and, where it is for a program, the files it is to have."""
    body = json.dumps(request).encode(errors="surrogateescape")
    files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", stdio))] if stdio else []
    link.sendmsg([_LENGTH.pack(len(body))], files)
    link.sendall(body)


def receive_request(link: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The message and its files; None when the other end has closed."""
    head, files, _, _ = socket.recv_fds(link, _LENGTH.size, 3)
    for fd in files:
        os.set_inheritable(fd, False)
    if not head:
        return None
    [left] = _LENGTH.unpack(head)
    parts = []
    while left:
        part = link.recv(left)
        if not part:
            raise ConnectionError("a request for a program was cut off")
        parts.append(part)
        left -= len(part)
    return json.loads(b"".join(parts).decode(errors="surrogateescape")), files


def send_number(link: socket.socket, number: int) -> None:
    """Send a process id, a refusal or an exit code."""
    link.sendall(_NUMBER.pack(number))


def receive_number(link: socket.socket) -> int | None:
    """The next number; None when the other end has closed."""
    data = b""
    while len(data) < _NUMBER.size:
        part = link.recv(_NUMBER.size - len(data))
        if not part:
            return None
        data += part
    return int(_NUMBER.unpack(data)[0])
