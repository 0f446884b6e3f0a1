"""What a forked child does to be the program that was asked for."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import os
import runpy
import signal
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from tests.support.forking import spawning
from tests.support.forking.environment import Imported

Handlers = Mapping[signal.Signals, Any]


@dataclass(frozen=True)
class Request:
    """A program as `subprocess` would start it: an interpreter's arguments and surroundings."""

    arguments: list[str]
    """Of Python: `-c CODE`, `-m MODULE` or a script, then its own."""
    environment: dict[str, str]
    folder: str
    own_session: bool = False
    tethered: bool = False
    """Whether it ends with whoever asked for it."""


def enter(request: Request, imported: Imported, stdio: Sequence[int], handlers: Handlers) -> None:
    """Take the program's surroundings: session, signals, stdio, folder, environment, processes."""
    if request.own_session:
        os.setsid()
    signal.set_wakeup_fd(-1)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for target, fd in enumerate(stdio):
        os.dup2(fd, target)
    for fd in {fd for fd in stdio if fd > 2}:
        os.close(fd)
    # The streams stay, because loggers that were made at import hold them.
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    os.chdir(request.folder)
    adopt(request.environment | imported.changed())
    draw_anew()
    spawning.serve_spawns(imported)


def adopt(environment: Mapping[str, str]) -> None:
    """Make that the whole environment."""
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


def draw_anew() -> None:
    """Give this process random numbers of its own; Python sees to its own generator."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def become(arguments: Sequence[str]) -> None:
    """Run the program as the interpreter would; returns or raises as it does."""
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    first, *rest = arguments
    if first == "-c":
        code, *rest = rest
        sys.argv = ["-c", *rest]
        sys.path.insert(0, "")
        exec(compile(code, "<string>", "exec"), main.__dict__)
    elif first == "-m":
        module, *rest = rest
        sys.argv = ["-m", *rest]
        sys.path.insert(0, os.getcwd())
        runpy._run_module_as_main(module)  # type: ignore[attr-defined]
    else:
        sys.argv = [first, *rest]
        sys.path.insert(0, os.path.dirname(os.path.abspath(first)))
        main.__file__ = first
        with open(first, "rb") as file:
            code_object = compile(file.read(), first, "exec")
        exec(code_object, main.__dict__)


def run_to_the_end(arguments: Sequence[str]) -> NoReturn:
    """Run the program and end the process as the interpreter does, but for tearing modules down.

    That would copy the parent's every page, and objects that the parent has set aside for good
    would be reported as leaked.
    """
    code, interrupted = 0, False
    try:
        become(arguments)
    except SystemExit as ended:
        code = _exit_code(ended)
    except BaseException as error:
        code, interrupted = 1, isinstance(error, KeyboardInterrupt)
        sys.excepthook(type(error), error, error.__traceback__)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        # A reader that has gone away is no more than a lost line.
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


def _exit_code(ended: SystemExit) -> int:
    if ended.code is None:
        return 0
    if isinstance(ended.code, int):
        return ended.code & 0xFF
    print(ended.code, file=sys.stderr)  # noqa: T201
    return 1


def can_become(arguments: Sequence[str]) -> bool:
    """Whether `become` knows what such arguments of Python mean."""
    if not arguments:
        return False
    return len(arguments) > 1 if arguments[0] in ("-c", "-m") else arguments[0].endswith(".py")
