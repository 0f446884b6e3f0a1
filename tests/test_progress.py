"""How far a long verb is can be seen without a terminal, and nothing is said of a short one."""

from __future__ import annotations

import ast
import io
import re
import sys
import threading
import time
from pathlib import Path

import pytest

from pilothouse.progress import EVERY_SECONDS, progress, waiting
from tests.test_house import PACKAGE, imports_of


class Printed:
    """What is printed on stderr where that is a file."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys, self._text = capsys, ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Printed:
    return Printed(capsys)


def until(stderr: Printed, text: str) -> str:
    """What was printed by the time that a text was."""
    deadline = time.monotonic() + 10
    while text not in stderr.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    return stderr.getvalue()


def test_a_line_comes_at_least_every_twenty_seconds() -> None:
    assert EVERY_SECONDS <= 20


def test_a_step_that_takes_long_is_told_of_while_it_lasts(stderr: Printed) -> None:
    with progress(every_seconds=0.05) as phase:
        advance = phase("sweep", 28)
        advance(3)
        assert "sweep: 3 of 28, 0:0" in until(stderr, "3 of 28")
        advance(4)
        assert "sweep: 7 of 28" in until(stderr, "7 of 28")
        phase("test", None)
        assert "test: 0:0" in until(stderr, "test: ")


def test_a_line_says_how_long_the_rest_takes_at_this_speed(stderr: Printed) -> None:
    with progress(every_seconds=0.05) as phase:
        advance = phase("sweep", 4000)
        assert "left" not in until(stderr, "0 of 4000")  # nothing is done that would tell
        time.sleep(0.2)
        advance(10)
        said = until(stderr, "left")
        minutes = re.search(r"sweep: 10 of 4000, 0:0\d, about (\d+):\d\d left", said)
        assert minutes is not None
        assert 1 <= int(minutes[1]) <= 20
        advance(3990)
        assert until(stderr, "4000 of 4000").splitlines()[-1].count("left") == 0


def test_lines_have_nothing_of_a_terminal_in_them(stderr: Printed) -> None:
    with waiting("reading", every_seconds=0.02):
        told = until(stderr, "reading")
    assert told.replace("\n", "").isprintable()
    assert all(line.startswith("reading: 0:0") for line in told.splitlines())


def test_short_work_says_nothing(stderr: Printed) -> None:
    with progress() as phase:
        phase("states", 4)(4)
    with progress(shown=False, every_seconds=0.01) as phase:
        phase("states", 4)
        time.sleep(0.1)
    assert stderr.getvalue() == ""


def test_nothing_runs_on_behind_it(stderr: Printed) -> None:
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt), waiting("reading", every_seconds=0.01):
            raise KeyboardInterrupt
    assert threading.active_count() == before
    told = stderr.getvalue()
    time.sleep(0.05)
    assert stderr.getvalue() == told


def test_a_reader_that_went_away_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    shut = type("Shut", (), {"isatty": lambda _: False, "write": closed.write, "flush": print})()
    monkeypatch.setattr(sys, "stderr", shut)
    with waiting("reading", every_seconds=0.01):
        time.sleep(0.05)


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    to = Terminal()
    monkeypatch.setattr(sys, "stderr", to)
    monkeypatch.setenv("TERM", "xterm")
    with progress() as phase:
        phase("starting", None)
        phase("states", 4)(4)
    assert "states" in to.getvalue() and "4/4" in to.getvalue()
    assert "starting: " not in to.getvalue()


def test_there_is_one_helper() -> None:
    found = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        for each in imports_of(file, PACKAGE)
        if each.module.startswith(("rich.progress", "tqdm"))
    }
    assert found == {"progress.py"}


def test_every_verb_that_starts_an_engine_tells_how_far_it_is() -> None:
    silent = []
    for file in sorted((PACKAGE / "cli").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        starts = "from pilothouse.llm import LLM" in text
        tells = "pilothouse.progress" in text or "waiting" in text
        if starts and not tells:
            silent.append(file.stem)
    assert silent == []


def test_the_set_up_prints_lines_where_there_is_no_terminal() -> None:
    script = Path(PACKAGE).parents[1] / "scripts" / "bootstrap.py"
    tree = ast.parse(script.read_text(encoding="utf-8"))
    [counter] = [
        each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == "Progress"
    ]
    space: dict[str, object] = {"sys": sys, "time": time, "threading": threading}
    said: list[str] = []
    space["say"] = said.append
    exec(compile(ast.Module([counter], []), str(script), "exec"), space)
    kind = space["Progress"]
    assert kind.EVERY_SECONDS <= 20  # type: ignore[attr-defined]
    kind.EVERY_SECONDS = 0.02  # type: ignore[attr-defined]
    count = kind("serving", 40)  # type: ignore[operator]
    count.live = False
    count.line("Collecting numpy")
    deadline = time.monotonic() + 10
    while not said and time.monotonic() < deadline:
        time.sleep(0.01)
    count.close("done")
    assert "serving: fetching" in said[0]
    assert said[-1].startswith("serving: done after")
