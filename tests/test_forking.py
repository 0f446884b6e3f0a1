"""A forked program is what a fresh one would be: code, output, signals, environment, processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import pilothouse
from tests.support.forking.client import AT_FIRST, ForkedProgram, _parent, python_command, run
from tests.support.forking.environment import Imported, recorded_reads
from tests.support.forking.wire import REFUSED, receive_number, send_request

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]


def python(code: str, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    """What a program of one string does."""
    command = [sys.executable, "-c", textwrap.dedent(code), *words]
    return run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture
def started() -> Iterator[list[ForkedProgram]]:
    """Programs that a test starts; none outlives it."""
    programs: list[ForkedProgram] = []
    yield programs
    for each in programs:
        if each.poll() is None:
            os.killpg(each.pid, signal.SIGKILL)
            each.wait(30)


def begun(code: str, programs: list[ForkedProgram]) -> ForkedProgram:
    """A program in a session of its own, as soon as it has said `ready`."""
    program = ForkedProgram(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    programs.append(program)
    assert program.forked
    assert program.stdout.readline() == "ready\n"
    return program


def test_code_and_output_and_arguments_are_the_programs_own() -> None:
    done = python("import sys; print(sys.argv[1:]); sys.stderr.write('no\\n'); sys.exit(7)", "a b")
    assert (done.returncode, done.stdout, done.stderr) == (7, "['a b']\n", "no\n")


def test_it_has_imported_what_a_server_imports() -> None:
    done = python("import sys; print('vllm.v1.engine.core' in sys.modules, __name__)")
    assert done.stdout == "True __main__\n", done.stderr


@pytest.mark.parametrize(
    ("code", "returncode", "told"),
    [
        ("raise ValueError('x')", 1, "ValueError: x"),
        ("import sys; sys.exit('reason')", 1, "reason"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, ""),
        ("import atexit, sys; atexit.register(sys.stderr.write, 'at exit')", 0, "at exit"),
        ("import threading, sys\n"
         "threading.Timer(0.2, lambda: sys.stderr.write('thread')).start()", 0, "thread"),
    ],
)  # fmt: skip
def test_it_ends_as_the_interpreter_would(code: str, returncode: int, told: str) -> None:
    done = python(code)
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, told in done.stderr) == (returncode, True), done.stderr
    assert (fresh.returncode, told in fresh.stderr) == (returncode, True), fresh.stderr


def test_modules_and_scripts_are_main_as_they_would_be(tmp_path: Path) -> None:
    script = tmp_path / "shown.py"
    script.write_text("import sys; print(__name__, __file__, sys.argv, sys.path[0])")
    for words in ([str(script), "x"], ["-m", "shown", "x"]):
        told = [
            start([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True).stdout
            for start in (run, subprocess.run)
        ]
        assert told[0] == told[1] != ""


def test_its_environment_and_folder_are_exactly_those_asked_for(tmp_path: Path) -> None:
    show = "import os; os.environ['LEFT'] = '1'; print(os.getcwd(), os.environ.get('ASKED'))"
    asked = python(show, env=os.environ | {"ASKED": "yes"}, cwd=tmp_path)
    assert asked.stdout == f"{tmp_path} yes\n"
    after = python("import os; print(os.environ.get('ASKED'), os.environ.get('LEFT'))")
    assert after.stdout == "None None\n"
    sees = "import os, subprocess; print(subprocess.check_output(['printenv', 'ASKED'], text=True))"
    assert python(sees, env=os.environ | {"ASKED": "yes"}).stdout == "yes\n\n"


def test_the_package_is_the_one_under_test() -> None:
    assert python("import pilothouse; print(pilothouse.__file__)").stdout == (
        f"{pilothouse.__file__}\n"
    )


def test_no_two_draw_the_same_random_numbers() -> None:
    draw = "import random, numpy; print(random.random(), numpy.random.random())"
    one, other = python(draw).stdout.split(), python(draw).stdout.split()
    assert not set(one) & set(other)


def test_logging_is_as_loud_as_the_program_says_when_vllm_configures_it() -> None:
    code = """
        import logging, os
        os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
        from vllm.config.logging import LoggingConfig
        from vllm.logger import configure_logging
        configure_logging(LoggingConfig())
        print(logging.getLogger("vllm").level)
        """
    assert python(code).stdout.splitlines()[-1] == "40"


def test_torch_computes() -> None:
    code = "import torch; x = torch.ones(512, 512); print((x @ x).sum().item())"
    assert python(code).stdout == f"{512.0**3}\n"


def test_a_variable_that_imports_read_makes_a_program_no_child_of_that_parent() -> None:
    request = {"arguments": ["-c", ""], "folder": "/", "environment": AT_FIRST | {"HF_HOME": "/x"}}
    with _parent(0, AT_FIRST) as link:
        send_request(link, request, (0, 1, 2))
        assert receive_number(link) == REFUSED


def test_reads_are_recorded_but_not_copies_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", "1")
    monkeypatch.setenv("OTHER", "2")
    before = dict(os.environ)
    with recorded_reads() as read:
        os.environ.get("ONE")
        "ABSENT" in os.environ  # noqa: B015
        os.getenv("ABSENT_TOO")
        dict(os.environ, MORE="x")
        [name for name, _ in os.environ.items() if name.startswith("OTHER")]
    assert read == {"ONE", "ABSENT", "ABSENT_TOO"}
    imported = Imported(before, before | {"SET": "by import"}, read | {"SET"})
    for change, expected in [
        ({"ONE": "3"}, ["ONE"]),
        ({"OTHER": "3"}, []),
        ({"ABSENT": ""}, ["ABSENT"]),
        ({"SET": "by import"}, []),
        ({"SET": "by hand"}, ["SET"]),
        ({"OMP_PLACES": "x"}, ["OMP_PLACES"]),
        ({"PYTEST_CURRENT_TEST": "x"}, []),
    ]:
        assert imported.disagreements(before | change) == expected


SPAWNS = """
import multiprocessing, os, sys, time


def child(queue):
    queue.put((os.getpid(), os.getsid(0), os.environ["LATE"], "vllm" in sys.modules))
    if os.environ["LATE"] == "stay":
        time.sleep(100)
    sys.exit(3)


if __name__ == "__main__":
    os.environ["LATE"] = sys.argv[1]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    print(*queue.get(), process.pid, flush=True)
    process.join()
    print(process.exitcode)
"""


@pytest.fixture
def spawns(tmp_path: Path) -> Path:
    """A script that spawns a process, which ends at once or stays."""
    script = tmp_path / "spawns.py"
    script.write_text(SPAWNS)
    return script


def test_what_it_spawns_is_forked_with_the_environment_of_that_moment(spawns: Path) -> None:
    done = run([sys.executable, spawns, "go"], capture_output=True, text=True, timeout=120)
    said, code = done.stdout.splitlines()
    pid, _, late, imported, known = said.split()
    assert (late, imported, code) == ("go", "True", "3"), done.stderr
    assert pid == known


def test_ctrl_c_reaches_what_it_spawned_and_leaves_nothing(
    spawns: Path, started: list[ForkedProgram]
) -> None:
    program = ForkedProgram(
        [sys.executable, spawns, "stay"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    started.append(program)
    pid, session, *_ = program.stdout.readline().split()
    assert int(session) == program.pid
    family = psutil.Process(program.pid).children(recursive=True)
    assert int(pid) in [each.pid for each in family]
    os.killpg(program.pid, signal.SIGINT)
    told, _ = program.communicate(timeout=60)
    assert program.returncode == -signal.SIGINT and "KeyboardInterrupt" in told
    deadline = time.monotonic() + 20
    while any(each.is_running() for each in family) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [
        each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE
    ]


def test_a_program_that_is_waited_for_in_vain_can_be_ended(started: list[ForkedProgram]) -> None:
    program = begun("print('ready', flush=True); import time; time.sleep(100)", started)
    assert program.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(0.2)
    program.terminate()
    assert program.wait(30) == -signal.SIGTERM
    with pytest.raises(subprocess.TimeoutExpired):
        run([sys.executable, "-c", "import time; time.sleep(100)"], timeout=1)


def test_the_command_passes_input_output_and_code_on() -> None:
    code = "import sys; print(sys.stdin.read().upper(), 'vllm' in sys.modules); sys.exit(4)"
    done = subprocess.run(
        python_command("-c", code), input="text", capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.returncode) == ("TEXT True\n", 4), done.stderr


@pytest.mark.parametrize("words", [["printf", "x"], [sys.executable, "--version"]])
def test_what_is_no_program_of_this_python_runs_as_ever(words: list[str]) -> None:
    with ForkedProgram(words, stdout=subprocess.PIPE) as program:
        assert program.communicate(timeout=30)[0]
    assert not program.forked and program.returncode == 0
