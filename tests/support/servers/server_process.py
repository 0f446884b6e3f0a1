"""Starting, waiting for and stopping real servers."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

START_SECONDS = 420
STOP_SECONDS = 60
COMMAND = (sys.executable, "-c", "from pilothouse.cli import main; main()")
TINY_FLAGS = (
    "--dtype",
    "float32",
    "--enforce-eager",
    "--max-model-len",
    "512",
    "--max-num-seqs",
    "16",
    "--host",
    "127.0.0.1",
)
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "INFO",
    "OMP_NUM_THREADS": "1",
    # vLLM would tie the worker of every server to the same core.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}

SET_BY_ENGINES = (
    "VLLM_WORKER_MULTIPROC_METHOD",
    "VLLM_USE_AOT_COMPILE",
    "TORCHINDUCTOR_CACHE_DIR",
)

_PRCTL = ctypes.CDLL(None).prctl
_PR_SET_PDEATHSIG = 1


def interrupt_with_parent() -> None:
    """Have this process interrupted when its parent ends, however that ends.

    Of a run of several processes that is interrupted or loses one, nobody else would end it.
    """
    _PRCTL(_PR_SET_PDEATHSIG, signal.SIGINT)


@dataclass(frozen=True)
class ServerProcess:
    """A server that is ready."""

    port: int
    pid: int
    log: Path

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self.port}"

    def metric(self, name: str, /, **labels: str) -> float:
        """The sum of the samples of that name whose labels include these."""
        return sum_of(httpx.get(f"{self.url}/metrics").text, name, **labels)


def sum_of(text: str, name: str, /, **labels: str) -> float:
    """The sum over a text exposition."""
    from prometheus_client.parser import text_string_to_metric_families

    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def serve_process(
    config: Path, served_name: str, log: Path, *flags: str, **environment: str
) -> Iterator[ServerProcess]:
    """`pilothouse serve` on the model beside a configuration."""
    port = free_port()
    words = ["serve", str(config.parent / "model"), f"--pilothouse-config={config}"]
    words += ["--served-model-name", served_name, "--port", str(port), *TINY_FLAGS, *flags]
    with started(words, port, log, environment) as server:
        yield server


@contextmanager
def demo_process(log: Path) -> Iterator[ServerProcess]:
    """`pilothouse demo --world`."""
    port = free_port()
    with started(["demo", "--world", "--port", str(port)], port, log, {}) as server:
        yield server


@contextmanager
def started(
    words: Sequence[str], port: int, log: Path, environment: dict[str, str]
) -> Iterator[ServerProcess]:
    """A process of ours from readiness to its end by Ctrl-C; fails with its log otherwise."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*COMMAND, *words],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**_without_engines_own(os.environ), **ENVIRONMENT, **environment},
            start_new_session=True,
            preexec_fn=interrupt_with_parent,
        )
    try:
        _wait(process, port, log)
        yield ServerProcess(port, process.pid, log)
    finally:
        stop(process)


def _without_engines_own(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what an engine in this process has set for itself in it.

    A server would take that for the user's word.
    """
    return {name: value for name, value in environment.items() if name not in SET_BY_ENGINES}


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C, and force only when that does not end it."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    # One client, and without authorities: to read those each time takes a tenth of a core.
    with httpx.Client(timeout=15, verify=False, trust_env=False) as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                answer = client.get(f"http://127.0.0.1:{port}/pilothouse/v1/ready")
                if answer.status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.3)
    tail = log.read_text(errors="replace")[-6000:]
    raise RuntimeError(f"the server on port {port} is not ready; the end of its log:\n{tail}")
