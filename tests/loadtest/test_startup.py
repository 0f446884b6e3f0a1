"""A start is timed from the command to the first piece of an answer, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import startup
from server import HOST, Server, ServerError
from startup import CACHES, _arguments, _order, measure

SERVES = """
import http.server, sys, time
time.sleep(1.0)
SAID = sys.argv[2:]
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200); self.end_headers()
        for each in SAID:
            time.sleep(0.3)
            self.wfile.write(each.encode() + b"\\n\\n")
            self.wfile.flush()
    def log_message(self, *words): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""
ROLE = 'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}'
TEXT = 'data: {"choices": [{"delta": {"content": "Paris"}}]}'
END = "data: [DONE]"


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def server(port: int, folder: Path, *said: str) -> Server:
    command = [sys.executable, "-c", SERVES, str(port), *said]
    return Server("a server", command, port, folder / "log")


def test_a_start_is_timed_to_ready_and_on_to_the_first_text(port: int, tmp_path: Path) -> None:
    found = measure(server(port, tmp_path, ROLE, TEXT, TEXT, END), "plain", "warm", 2)
    assert 1.0 < found.ready_s < 10.0
    assert 0.6 <= found.first_token_s < 3.0, "the role alone is no text"
    assert (found.pair, found.order, found.processes) == (2, "plain first", 1)
    assert found.peak_mib > 1 and found.cpu_s > 0
    assert not psutil.Process().children(recursive=True) or not _serves(port)


def _serves(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex((HOST, port)) == 0


def test_an_answer_without_text_is_no_measurement(port: int, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="without any text"):
        measure(server(port, tmp_path, ROLE, END), "plain", "warm", 0)
    assert not _serves(port)


def test_who_begins_changes_from_pair_to_pair() -> None:
    assert [_order(pair)[0] for pair in range(4)] == ["plain", "pilothouse"] * 2


@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        ([], ("cold", "warm")),
        (["--only", "warm"], ("warm",)),
        (["--only", "cold"], ("cold",)),
        (["--eager"], ("eager",)),
    ],
)
def test_what_is_not_compiled_has_one_kind_of_start(
    words: list[str], kinds: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    args = _arguments([*words, "--work", str(tmp_path), "--env", "A=b=c"])
    assert args.kinds == kinds and args.env == {"A": "b=c"}
    assert args.json.name.startswith(f"startup_cpu{len(os.sched_getaffinity(0))}-smol")
    assert ("eager" in args.json.name) == (kinds == ("eager",))


@pytest.mark.parametrize("words", [["--env", "A"], ["--pairs", "0"], ["--eager", "--only", "warm"]])
def test_words_that_mean_nothing_are_wrong_use(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        _arguments([*words, "--work", str(tmp_path)])


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import startup
from server import Server
def fake(model, config_or_port, *rest):
    port = next(each for each in (config_or_port, *rest) if isinstance(each, int))
    command = [sys.executable, "-c", sys.argv[4], str(port), sys.argv[5], "data: [DONE]"]
    return Server("fake", command, port, rest[-1])
startup.plain_server = startup.pilothouse_server = fake
sys.exit(startup.main(sys.argv[6:]))
"""


def command(folder: Path, port: int, code: str = SERVES) -> list[str]:
    """startup.py on servers that are none of vLLM's."""
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text('{"hidden_size": 64, "num_hidden_layers": 2}')
    own = [sys.executable, "-c", PROGRAM, str(Path(startup.__file__).parent), "", "", code, TEXT]
    own += ["--model", str(model), "--work", str(folder / "work"), "--port", str(port)]
    return [*own, "--json", str(folder / "found.json")]


def test_pairs_are_kept_and_folders_of_compiled_code_are_gone(port: int, tmp_path: Path) -> None:
    ran = subprocess.run(
        [*command(tmp_path, port), "--pairs", "2"], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(each["kind"], each["who"], each["pair"]) for each in found["starts"]] == [
        (kind, who, pair)
        for pair in range(2)
        for kind in ("cold", "warm")
        for who in (("plain", "pilothouse"), ("pilothouse", "plain"))[pair]
    ]
    assert set(found["summary"]) == {"cold", "warm"}
    assert str(tmp_path) not in (tmp_path / "found.json").read_text()
    assert ran.stderr.count("ready after") == 8
    assert not list((tmp_path / "work").glob("compiled-*"))


def test_ctrl_c_ends_the_server_and_keeps_what_is_known(port: int, tmp_path: Path) -> None:
    slow = SERVES.replace("time.sleep(1.0)", "import os; time.sleep(1.0 if CACHE else 60)").replace(
        "import http.server",
        "import os\nCACHE = 'compiled-' in os.environ['VLLM_CACHE_ROOT'] and "
        "os.environ['VLLM_CACHE_ROOT'].endswith('plain/vllm')\nimport http.server",
    )
    running = subprocess.Popen(
        command(tmp_path, port, slow), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert running.stderr is not None
    for text in running.stderr:
        if "ready after" in text:
            break
    time.sleep(1.0)
    family = psutil.Process(running.pid).children(recursive=True)
    assert family
    os.kill(running.pid, signal.SIGINT)
    assert running.wait(timeout=60) == 130
    assert not [each for each in family if each.is_running() and each.status() != "zombie"]
    found = json.loads((tmp_path / "found.json").read_text())
    assert [each["who"] for each in found["starts"]] == ["plain"]
    assert set(CACHES) == {"VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"}
