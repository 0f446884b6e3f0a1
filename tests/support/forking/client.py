"""Asking for a forked program: `subprocess.Popen` as everybody knows it, and a command.

A program that no parent can stand for runs in an interpreter of its own: what is no program of
this Python, what differs in a variable that imports read, and all of them where
PILOTHOUSE_TESTS_FORK is 0.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[3]
if __name__ == "__main__":  # as a command: without site-packages and PYTHONPATH
    sys.path.insert(0, str(CHECKOUT))

from tests.support.forking.environment import TESTS_OWN  # noqa: E402
from tests.support.forking.program import can_become  # noqa: E402
from tests.support.forking.wire import REFUSED, receive_number, send_request  # noqa: E402

MOST_PARENTS = 2
"""For environments that differ in what imports read; each takes an import and 0.7 GiB."""
RUN_VARIABLE = "PILOTHOUSE_TESTS_RUN"
"""Names the folder of the parents' sockets, for all processes of one run of the tests."""
FORK_VARIABLE = "PILOTHOUSE_TESTS_FORK"
IMPORT_SECONDS = 280
AT_FIRST = dict(os.environ)
"""Before anything was imported, or set for a test. The first parent starts in it, so that one does
for all; the second in what a program asked for that the first could not stand for."""


class ForkedProgram(subprocess.Popen[Any]):
    """`subprocess.Popen` of `sys.executable`, forked where a parent can stand for the program."""

    _link: socket.socket | None = None

    def _execute_child(self, args: Any, *others: Any) -> None:
        executable, preexec_fn, _, pass_fds, cwd, env, _, _, shell, *pipes = others[:15]
        _, gid, gids, uid, umask, new_session, group = others[15:]
        p2cread, _, _, c2pwrite, _, errwrite = pipes
        plain = (executable, preexec_fn, gid, gids, uid) == (None,) * 5 and not (shell or pass_fds)
        if plain and umask == -1 and group == -1 and not isinstance(args, str):
            stdio = [
                own if fd == -1 else fd for own, fd in enumerate((p2cread, c2pwrite, errwrite))
            ]
            words = [os.fspath(each) for each in args]
            got = fork(words, stdio, env, cwd, own_session=bool(new_session))
            if got is not None:
                self._link, self.pid = got
                self._child_created = True
                self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]
                return
        super()._execute_child(args, *others)  # type: ignore[misc]

    @property
    def forked(self) -> bool:
        """Whether it has no interpreter of its own."""
        return self._link is not None

    def _internal_poll(self, *others: Any, **more: Any) -> int | None:
        if self._link is None:
            return super()._internal_poll(*others, **more)  # type: ignore[misc]
        return self._ended(0)

    def _wait(self, timeout: float | None) -> int:
        if self._link is None:
            return int(super()._wait(timeout))  # type: ignore[misc]
        code = self._ended(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def _ended(self, timeout: float | None) -> int | None:
        """The exit code, once its parent tells it; None after the time."""
        assert self._link is not None
        lock: threading.Lock = self._waitpid_lock  # type: ignore[attr-defined]
        if not lock.acquire(blocking=timeout != 0):
            return None  # another thread waits
        try:
            if self.returncode is None and select.select([self._link], [], [], timeout)[0]:
                code = receive_number(self._link)
                # A parent that dies says nothing, nor is there anybody left to reap.
                self.returncode = -signal.SIGKILL if code is None else code
                self._link.close()
        finally:
            lock.release()
        return self.returncode


def run(
    args: Sequence[str | Path],
    *,
    timeout: float | None = None,
    check: bool = False,
    capture_output: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run`, forked where that can be."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with ForkedProgram(args, **options) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
    if check:
        done.check_returncode()
    return done


def fork(
    words: Sequence[str],
    stdio: Sequence[int],
    environment: Mapping[str, str] | None,
    folder: str | Path | None,
    **how: bool,
) -> tuple[socket.socket, int] | None:
    """Have a parent fork `words`; the link that will tell its end, and its process id."""
    python, *arguments = words
    if (
        os.environ.get(FORK_VARIABLE) == "0"
        or python != sys.executable
        or not can_become(arguments)
    ):
        return None
    wanted = dict(os.environ if environment is None else environment)
    request = {
        "arguments": arguments, "environment": wanted, "folder": str(folder or Path.cwd()), **how,
    }  # fmt: skip
    for number in range(MOST_PARENTS):
        link = _parent(number, wanted if number else AT_FIRST)
        send_request(link, request, stdio)
        pid = receive_number(link)
        if pid is None:
            raise RuntimeError(f"the parent of tests' programs has died; see {_log(number)}")
        if pid != REFUSED:
            return link, pid
        link.close()
    return None


def python_command(*arguments: str) -> list[str]:
    """A command that runs Python with these arguments, forked where that can be."""
    return [sys.executable, "-I", "-S", __file__, run_folder(), *arguments]


def fork_inspections() -> None:
    """Have vLLM fork where it looks at a model's class in an interpreter of its own."""
    from vllm.model_executor.models import registry

    registry._SUBPROCESS_COMMAND = python_command("-m", registry.__name__)


_MEMBERSHIPS: dict[int, socket.socket] = {}


def run_folder() -> str:
    """The folder of this run; made, and named to all that this process starts, when first asked."""
    folder = os.environ.get(RUN_VARIABLE)
    if folder is None:
        folder = tempfile.mkdtemp(prefix="pilothouse-forking-")
        os.environ[RUN_VARIABLE] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _parent(number: int, environment: Mapping[str, str]) -> socket.socket:
    """A new link to a parent, which is started under this environment if there is none yet."""
    address = Path(run_folder()) / str(number)
    with (address.parent / f"{number}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        link = _connected(address)
        if link is None:
            link = _started(address, environment)
            _MEMBERSHIPS.pop(number, None)
        if number not in _MEMBERSHIPS:
            member = _connected(address)
            if member is None:
                raise RuntimeError(f"the parent of tests' programs has died; see {_log(number)}")
            send_request(member, {"member": True}, [])
            _MEMBERSHIPS[number] = member
    return link


def _connected(address: Path) -> socket.socket | None:
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect(str(address))
    except OSError:
        link.close()
        return None
    return link


def _started(address: Path, environment: Mapping[str, str]) -> socket.socket:
    address.unlink(missing_ok=True)
    own = {name: value for name, value in environment.items() if not name.startswith(TESTS_OWN)}
    code = f"from tests.support.forking.server import main; main({str(address)!r})"
    log = _log(int(address.name))
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=CHECKOUT,
            env=own | {RUN_VARIABLE: str(address.parent)}, stdin=subprocess.DEVNULL,
            stdout=sink, stderr=subprocess.STDOUT,
        )  # fmt: skip
    deadline = time.monotonic() + IMPORT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        link = _connected(address)
        if link is not None:
            # It goes when its members have; nobody waits for it.
            process.returncode = 0
            return link
        time.sleep(0.05)
    process.kill()
    tail = log.read_text(errors="replace")[-4000:]
    raise RuntimeError(f"the parent of tests' programs did not start; the end of its log:\n{tail}")


def _log(number: int) -> Path:
    return Path(run_folder()) / f"{number}.txt"


def main() -> None:
    """The command: be the program's stdio and exit code, and pass signals on."""
    os.environ[RUN_VARIABLE], *arguments = sys.argv[1:]
    words = [sys.executable, *arguments]
    got = fork(words, (0, 1, 2), None, None, tethered=True)
    if got is None:
        os.execv(sys.executable, words)
    link, pid = got
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda each, _: os.kill(pid, each))
    code = receive_number(link)
    if code is None:
        sys.exit("the parent of tests' programs has died")
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
