"""Pinned wheels: fetched by pip once, compared by their content, never half there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pilothouse.demo import cache
from pilothouse.demo.cache import locked
from pilothouse.demo.wheels import WHEELS, IndexUnreachable, Wheel, digest_of, wheel_path
from pilothouse.errors import ConfigError
from tests.support.package_index import offline, pin, stalling_index, use_folder, write_wheel

NAME = "tiny-texts"


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """What pip finds wheels in."""
    return tmp_path / "shelf"


@pytest.fixture
def wheel(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """A pinned wheel that pip finds, and an empty cache."""
    made = write_wheel(shelf, NAME, "0.1", {"tiny_texts/lines.txt": b"one\ntwo\n" * 2000})
    pin(made, monkeypatch)
    use_folder(shelf, monkeypatch)
    monkeypatch.setenv("PILOTHOUSE_CACHE", str(tmp_path / "cache"))
    return made


def files_in(folder: Path) -> set[str]:
    return {each.name for each in folder.rglob("*") if each.is_file()}


def without_locks(folder: Path) -> set[str]:
    return {name for name in files_in(folder) if not name.endswith(".lock")}


def test_a_wheel_is_fetched_once_and_kept(
    wheel: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    path = wheel_path(NAME, told.append)
    assert digest_of(path) == wheel.sha256 and len(told) == 1 and "0.1" in told[0]
    use_folder(tmp_path, monkeypatch)
    assert wheel_path(NAME, told.append) == path and len(told) == 1
    assert without_locks(tmp_path / "cache") == {path.name}


def test_a_kept_wheel_that_was_altered_is_fetched_again(wheel: Wheel) -> None:
    path = wheel_path(NAME, lambda _: None)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert digest_of(wheel_path(NAME, lambda _: None)) == wheel.sha256


def test_another_file_under_the_same_name_is_refused_and_not_kept(
    wheel: Wheel, shelf: Path, tmp_path: Path
) -> None:
    write_wheel(shelf, NAME, "0.1", {"tiny_texts/lines.txt": b"three\n"})
    with pytest.raises(ConfigError, match=f"want {wheel.sha256}") as refused:
        wheel_path(NAME, lambda _: None)
    assert not isinstance(refused.value, IndexUnreachable)
    assert not without_locks(tmp_path / "cache")


def test_without_an_index_one_line_says_what_to_do(
    wheel: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_folder(tmp_path, monkeypatch)
    with pytest.raises(IndexUnreachable) as refused:
        wheel_path(NAME, lambda _: None)
    said = str(refused.value)
    assert "\n" not in said and wheel.sha256 in said and "PIP_INDEX_URL" in said
    assert not without_locks(tmp_path / "cache")


@pytest.mark.usefixtures("wheel")
def test_an_index_that_nobody_answers_for_is_told_in_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    started = time.monotonic()
    with pytest.raises(IndexUnreachable, match=r"tiny-texts 0\.1"):
        wheel_path(NAME, lambda _: None)
    assert time.monotonic() - started < 60


@pytest.mark.usefixtures("wheel")
def test_a_wheel_that_the_user_put_there_is_taken(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_folder(tmp_path, monkeypatch)
    folder = tmp_path / "cache" / "wheels"
    folder.mkdir(parents=True)
    (file,) = shelf.iterdir()
    file.rename(folder / file.name)
    assert wheel_path(NAME, lambda _: None) == folder / file.name


@pytest.mark.usefixtures("wheel")
def test_a_second_process_waits_and_then_finds_it_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = wheel_path(NAME, lambda _: None)
    use_folder(tmp_path, monkeypatch)
    told, found = [], []
    waits = threading.Event()

    def tell(text: str) -> None:
        told.append(text)
        waits.set()

    second = threading.Thread(target=lambda: found.append(wheel_path(NAME, tell)))
    with locked(path.parent / NAME, lambda _: None):
        second.start()
        assert waits.wait(30) and not found
    second.join(30)
    assert found == [path] and "Waiting" in told[0]


FETCH = """
import sys
from pathlib import Path
from pilothouse.demo import wheels
wheels.WHEELS = {sys.argv[1]: wheels.Wheel(*sys.argv[1:4], int(sys.argv[4]), "Apache-2.0")}
print(wheels.wheel_path(sys.argv[1], lambda _: None))
"""


def test_ctrl_c_during_a_download_leaves_nothing_and_the_next_run_goes_on(
    wheel: Wheel, shelf: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", FETCH, wheel.name, wheel.version, wheel.sha256]
    command.append(str(wheel.size_bytes))
    (file,) = shelf.iterdir()
    with stalling_index(file) as (url, half_sent):
        variables = {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": url}
        first = subprocess.Popen(
            command,
            env={k: v for k, v in os.environ.items() if not k.startswith("PIP_")} | variables,
            stderr=subprocess.DEVNULL,
        )
        assert half_sent.wait(60)
        first.send_signal(signal.SIGINT)
        assert first.wait(30) != 0
    assert not without_locks(tmp_path / "cache")
    done = subprocess.run(
        command, env=os.environ | offline(shelf), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert digest_of(Path(done.stdout.strip())) == wheel.sha256


@pytest.mark.usefixtures("wheel")
def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / "cache" / "wheels" / f".{NAME}-killed"
    left.mkdir(parents=True)
    (left / "half.whl").write_bytes(b"PK")
    path = wheel_path(NAME, lambda _: None)
    assert without_locks(tmp_path / "cache") == {path.name}


@pytest.mark.usefixtures("wheel")
def test_a_full_disk_is_told_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        free = 1

    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: Full)
    with pytest.raises(ConfigError, match=r"want 0 MiB to make tiny-texts|make room"):
        wheel_path(NAME, lambda _: None)


@pytest.mark.usefixtures("wheel")
def test_a_cache_that_cannot_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("PILOTHOUSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="PILOTHOUSE_CACHE"):
        wheel_path(NAME, lambda _: None)


def test_the_cache_lies_where_its_variables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOTHOUSE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_folder("a") == tmp_path / "own" / "a"
    monkeypatch.delenv("PILOTHOUSE_CACHE")
    assert cache.cache_folder("a") == tmp_path / "shared" / "pilothouse" / "a"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder("a") == tmp_path / "home" / ".cache" / "pilothouse" / "a"


@pytest.mark.parametrize("wheel", WHEELS.values(), ids=str)
def test_every_pin_is_whole(wheel: Wheel) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", wheel.sha256) and wheel.size_bytes > 0
    assert wheel.licence and "GPL" not in wheel.licence
