"""Servers are stopped with all they started, ports are checked, counters are read."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import psutil
import pytest

from server import HOST, Server, ServerError, counters_of, refuse_taken

SERVES = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *words): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def server(port: int, folder: Path, code: str = SERVES) -> Server:
    return Server("a server", [sys.executable, "-c", code, str(port)], port, folder / "log")


def test_stop_ends_a_child_that_ignores_the_request(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.STOP_TIMEOUT_S", 1.0)
    others = set(psutil.Process().children(recursive=True))
    one = server(port, tmp_path)
    one.start()
    mine = set(psutil.Process().children(recursive=True)) - others
    assert len(mine) == 2
    one.stop()
    one.stop()
    assert not [each for each in mine if _works(each)]


def _works(process: psutil.Process) -> bool:
    """Ended processes whose new parent has not looked yet do not count."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_server_that_ends_early_is_told_with_its_last_words(port: int, tmp_path: Path) -> None:
    one = server(port, tmp_path, "raise SystemExit('no such model')")
    with pytest.raises(ServerError, match=r"(?s)status 1.*no such model"):
        one.start()
    one.stop()


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"port {number}.*--port"):
            server(number, tmp_path).start()
        assert not (tmp_path / "log").exists()


def test_a_free_port_is_not_refused(port: int) -> None:
    refuse_taken(port, "a server")


def test_an_idle_server_uses_no_processor_time(port: int, tmp_path: Path) -> None:
    one = server(port, tmp_path)
    one.start()
    try:
        assert one.idle_cores(1.0) < 0.2
        assert one.resident_mib() > 1
    finally:
        one.stop()


CHILD_WORKS = SERVES.replace(
    "class Answer",
    """
subprocess.run([sys.executable, "-c",
    "import time\\nend = time.process_time() + 1\\nwhile time.process_time() < end: pass"])
class Answer""",
)


def test_processor_time_of_children_that_have_ended_counts(port: int, tmp_path: Path) -> None:
    """A start that compiles does most of its work in compilers."""
    one = server(port, tmp_path, CHILD_WORKS)
    assert (one.cpu_seconds(), one.family()) == (0.0, [])
    one.start()
    try:
        assert one.cpu_seconds() > 1.0
    finally:
        one.stop()
    assert one.family() == []


def test_counters_are_added_up_by_label_and_others_left_out() -> None:
    text = """
# TYPE pilothouse_steered_tokens counter
pilothouse_steered_tokens_total{name="v00"} 3.0
pilothouse_steered_tokens_total{name="v01"} 4.0
# TYPE pilothouse_programs_active gauge
pilothouse_programs_active 2.0
# TYPE vllm:prompt_tokens counter
vllm:prompt_tokens_total{engine="0"} 9.0
"""
    assert counters_of(text) == {"pilothouse_steered_tokens_total": {"v00": 3.0, "v01": 4.0}}
