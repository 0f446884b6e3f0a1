"""One server under load: started, waited for, asked for its counters, and surely stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

HOST = "127.0.0.1"
START_TIMEOUT_S = 900.0
STOP_TIMEOUT_S = 20.0
LOG_TAIL_LINES = 30
PLAIN_LAUNCHER = Path(__file__).with_name("plain_server.py")
NO_PLUGINS = ""
OURS = "pilothouse_"


class ServerError(RuntimeError):
    """A server did not start, or died."""


@dataclass(slots=True)
class Server:
    """A server process and all it started."""

    name: str
    command: Sequence[str]
    port: int
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    seconds_to_start: float = 0.0
    poll_s: float = 0.5
    """Between two looks whether it is ready."""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Start it and wait until it is healthy.

        Raises:
            ServerError: the port is taken, it ended early, or it took too long.
        """
        refuse_taken(self.port, self.name)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                list(self.command),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | self.environment,
                start_new_session=True,
            )
        while not self._healthy():
            if self._process.poll() is not None:
                raise ServerError(self._told(f"ended with status {self._process.returncode}"))
            if time.monotonic() - began > START_TIMEOUT_S:
                raise ServerError(self._told(f"was not ready after {START_TIMEOUT_S:.0f} s"))
            time.sleep(self.poll_s)
        self.seconds_to_start = time.monotonic() - began

    def stop(self) -> None:
        """End it and everything it started; safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        family = _family(process.pid)
        _signal_group(process.pid, signal.SIGTERM)
        _wait_for_end(process, family)
        _signal_group(process.pid, signal.SIGKILL)
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        _wait_for_end(process, family)

    def idle_cores(self, seconds: float) -> float:
        """Processor time per second over a while in which nobody asks for anything."""
        before = self.cpu_seconds()
        time.sleep(seconds)
        return (self.cpu_seconds() - before) / seconds

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far; of those that have ended, too."""
        total = 0.0
        for each in self.family():
            with suppress(psutil.NoSuchProcess):
                total += sum(each.cpu_times()[:4])  # with children's that were waited for
        return total

    def family(self) -> list[psutil.Process]:
        """All its processes; none before it is started and after it was stopped."""
        return [] if self._process is None else _family(self._process.pid)

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        assert self._process is not None
        return self._process.pid

    def resident_mib(self) -> float:
        """Memory of all its processes; shared pages count in each."""
        return float(sum(each.memory_info().rss for each in self.family())) / 2**20

    def counters(self) -> dict[str, dict[str, float]]:
        """Our counters on its /metrics: name -> the labels' values, joined by `/` -> total.

        Raises:
            ServerError: it does not answer.
        """
        try:
            return counters_of(httpx.get(f"{self.url}/metrics", timeout=30).text)
        except httpx.HTTPError as error:
            raise ServerError(self._told(f"does not show its metrics ({error!r})")) from error

    def _healthy(self) -> bool:
        try:
            # Without authorities: to read those each time takes a tenth of a core.
            found = httpx.get(f"{self.url}/health", timeout=2, verify=False, trust_env=False)
            return found.status_code == 200
        except httpx.HTTPError:
            return False

    def _told(self, what: str) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "\n".join(f"    {line}" for line in lines[-LOG_TAIL_LINES:])
        return f"{self.name} {what}; the end of {self.log}:\n{tail}"


def plain_server(model: Path, port: int, flags: Sequence[str], log: Path) -> Server:
    """vLLM's own server without any plugin."""
    command = [sys.executable, str(PLAIN_LAUNCHER), str(model), "--port", str(port), *flags]
    return Server("plain vLLM", command, port, log, {"VLLM_PLUGINS": NO_PLUGINS})


def pilothouse_server(
    model: Path, config: Path | None, port: int, flags: Sequence[str], log: Path
) -> Server:
    """`pilothouse serve` with the same flags."""
    command = [sys.executable, "-c", "from pilothouse.cli import main; main()", "serve", str(model)]
    if config is not None:
        command += ["--pilothouse-config", str(config)]
    return Server("Pilothouse", [*command, "--port", str(port), *flags], port, log)


def refuse_taken(port: int, name: str) -> None:
    """Raises ServerError where something else listens, with what to do."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServerError(
                f"port {port} for {name} cannot be used ({error.strerror}): stop what listens "
                "there, or choose two other ports with --port"
            ) from error


def counters_of(text: str) -> dict[str, dict[str, float]]:
    """As `Server.counters`, from the text of a scrape."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(OURS) and sample.name.endswith("_total"):
                label = "/".join(sample.labels.values())
                found[sample.name][label] = found[sample.name].get(label, 0.0) + sample.value
    return dict(found)


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _wait_for_end(process: subprocess.Popen[bytes], family: Sequence[psutil.Process]) -> None:
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        process.poll()
        if not any(_works(each) for each in family):
            return
        time.sleep(0.1)


def _works(process: psutil.Process) -> bool:
    """An ended process whose parent has not looked yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)
