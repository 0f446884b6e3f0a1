"""Plain vLLM and Pilothouse in turn, through HTTP: what do reading, deciding and steering cost?

    python loadtest/bench.py                      every case, about an hour
    python loadtest/bench.py --quick --case idle  a smoke test, two pairs
    python loadtest/bench.py --model smol         the same cases on a real model, two hours

See README.md in this folder for the method.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmodel import BenchModel, random_model, smol_model
from burst import BurstError, Measured, bodies, run_burst
from environment import OtherWork, environment
from interrupted import Interrupted, end_servers_when_interrupted, say
from paired import (
    MIN_PAIRS,
    MIN_PAIRS_TO_JUDGE,
    Pair,
    host_standing,
    host_verdict_line,
    order_of,
    standing,
    summarise,
    summarise_host,
    verdict_line,
)
from pilothouse.engine.vllm.compiled_code import keep_compiled_code
from pilothouse.errors import PilothouseError
from report import AnyResult, HostResult, Result, table, write_bench_json, write_record
from scenario import (
    ALL,
    CASES,
    HOST_STEP,
    ON_SMOL,
    SERVED_NAME,
    SMOL_BY_DEFAULT,
    Case,
    HostCase,
    Load,
    Profile,
)
from server import Server, ServerError, pilothouse_server, plain_server

HERE = Path(__file__).resolve().parent
DEFAULT_PORT = 8870
PAIRS = 20
QUICK_PAIRS = 2
WARM_UPS = 2
SETTLE_S = 1.5
"""A worker of vLLM polls for 1 s after its last step; only then is a server idle."""
IDLE_WATCH_S = 2.0
BUSY_IDLE_CORES = 0.05
BUSY_MACHINE_CORES = 0.1
GOOD, FINDING, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
EVERY: dict[str, Case | HostCase] = {**ALL, HOST_STEP.name: HOST_STEP}
BY_DEFAULT = [*(each.name for each in CASES), HOST_STEP.name]
CASES_ON: dict[str, tuple[dict[str, Case | HostCase], Sequence[str]]] = {
    "random": (EVERY, BY_DEFAULT),
    "smol": ({**ON_SMOL}, SMOL_BY_DEFAULT),
}
"""Of each model: its cases, and those that run unless others are named."""
LEAST_SEATS = 64
QUICK_ROUNDS = 3
HOST_TIMEOUT_S = 900.0


class ProofError(RuntimeError):
    """The server's counters do not show the work that the case is about."""


def main(words: Sequence[str]) -> int:
    """Run the chosen cases; 1 where a goal was missed."""
    args = _arguments(words)
    end_servers_when_interrupted()
    results: list[AnyResult] = []
    try:
        failed = _run(args, results)
    except Interrupted:
        say("interrupted: the servers are stopped")
        return INTERRUPTED
    except (ServerError, BurstError, PilothouseError) as error:
        say(f"bench: {error}")
        return WRONG_USE
    if failed:
        say(f"no figure for {', '.join(failed)}: see above")
        return WRONG_USE
    return FINDING if any(_standing(each) == "missed" for each in results) else GOOD


def _standing(result: AnyResult) -> str | None:
    if isinstance(result, HostResult):
        return host_standing(result.summary, result.case.goal_us)
    return None if result.case.goal is None else standing(result.summary, result.case.goal)


def _run(args: argparse.Namespace, results: list[AnyResult]) -> list[str]:
    """Fill `results` case by case; the names of the cases that gave none."""
    about = environment()
    model = smol_model() if args.model == "smol" else random_model(args.work)
    bursts = list(dict.fromkeys(case.burst for case in args.case if isinstance(case, Case)))
    setup = {
        "model": model.about,
        "bursts": [asdict(burst) | {"flags": _flags(args, burst)} for burst in bursts],
        "warm_up_bursts": WARM_UPS,
        "settle_s": SETTLE_S,
        "quick": args.quick,
    }
    failed: list[str] = []
    args.json.unlink(missing_ok=True)
    say(f"{about['processor']}, {about['cores']} cores, load {about['load_average_at_start']}")

    def keep(result: AnyResult) -> None:
        results.append(result)
        write_bench_json(args.json, results)
        if args.results is not None:
            write_record(args.results, args.hardware, about, setup, results)

    def attempt(name: str, measure: Callable[[], AnyResult]) -> None:
        try:
            keep(measure())
        except (ServerError, BurstError, ProofError) as error:
            failed.append(name)
            say(f"  {name} gave no figure: {error}")

    for case in args.case:
        if isinstance(case, HostCase):
            attempt(case.name, partial(_host, case, args))
    for burst in bursts:
        flags = _flags(args, burst)
        log = args.work / "plain.log"
        with _running(plain_server(model.folder, args.port, flags, log)) as plain:
            for case in args.case:
                if isinstance(case, Case) and case.burst == burst:
                    attempt(case.name, partial(_case, case, plain, model, args))
    print(f"\n{table(results)}\n", flush=True)
    if results:
        say(f"wrote {args.json}" + (f" and {args.results}/" if args.results else ""))
    return failed


def _host(case: HostCase, args: argparse.Namespace) -> HostResult:
    """Run the job in a process of its own, which has vLLM's scheduler in it and no server."""
    say(f"{case.name}: {case.what}")
    rounds = QUICK_ROUNDS if args.quick else case.rounds
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "host_step.json"
        command = [
            sys.executable,
            str(HERE / "host_step.py"),
            "--job",
            case.job,
            "--rounds",
            str(rounds),
            "--steps",
            str(case.steps),
            "--work",
            str(args.work),
            "--out",
            str(out),
        ]
        try:
            ran = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=HOST_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ProofError(f"{case.name} took more than {HOST_TIMEOUT_S:.0f} s") from error
        if not out.exists():
            raise ProofError(f"{case.name} ended with status {ran.returncode}:\n{ran.stdout}")
        found = json.loads(out.read_text("utf-8"))["jobs"][case.job]["rounds"]
    summary = summarise_host([each["total_us"] for each in found])
    say(
        f"  {case.name} {summary.us_median:.0f} us "
        f"({summary.us_low:.0f} to {summary.us_high:.0f}): "
        f"{host_verdict_line(summary, case.goal_us)}"
    )
    return HostResult(case, tuple(found), summary)


def _case(case: Case, plain: Server, model: BenchModel, args: argparse.Namespace) -> Result:
    say(f"{case.name}: {case.what}")
    other = _other(case, model, args)
    with _running(other):
        requests = _Requests(case, model.words)
        for turn in range(WARM_UPS):
            for server in (plain, other):
                requests.send(server, -1 - turn)
        conditions = _idle(plain, other)
        before, done = other.counters(), []
        pairs, others = [], OtherWork((plain, other))
        for index in range(args.pairs):
            pair, load = requests.pair(index, plain, other)
            pairs.append(pair)
            done.append(load)
            say(
                f"  {index + 1:>2}/{args.pairs}  plain {pair.plain_tokens_per_s:7.1f}  "
                f"{other.name} {pair.pilothouse_tokens_per_s:7.1f} tokens/s  "
                f"ratio {pair.ratio:.4f}"
            )
        _prove(case, other, before, done)
        conditions |= {
            "cores_used_by_others": _noted("other programs", others.cores(), BUSY_MACHINE_CORES),
            "plain_resident_mib": round(plain.resident_mib()),
            "other_resident_mib": round(other.resident_mib()),
        }
    summary = summarise(pairs)
    outcome = "" if case.goal is None else f": {verdict_line(summary, case.goal)}"
    say(
        f"  {case.name} {summary.ratio_median:.4f} "
        f"({summary.ratio_low:.4f} to {summary.ratio_high:.4f}){outcome}"
    )
    return Result(case, tuple(pairs), summary, conditions)


class _Requests:
    """The bursts of one case."""

    def __init__(self, case: Case, words: Sequence[str]) -> None:
        self._case = case
        self._words = words

    def send(self, server: Server, index: int) -> Measured:
        """One burst, once both servers have come to rest."""
        models = (SERVED_NAME,) if server.name.startswith("plain") else self._case.models()
        seed = f"{self._case.name}/{index}"
        prepared = bodies(self._case.burst, models, self._words, seed)
        time.sleep(SETTLE_S)
        return run_burst(server.url, prepared)

    def pair(self, index: int, plain: Server, other: Server) -> tuple[Pair, Load]:
        """Both servers with the same prompts, and what the other one was asked for."""
        order = order_of(index)
        turns = (plain, other) if order == "plain first" else (other, plain)
        found = {server.port: self.send(server, index) for server in turns}
        pair = Pair(order, found[plain.port].tokens_per_s, found[other.port].tokens_per_s)
        return pair, found[other.port].load


def _other(case: Case, model: BenchModel, args: argparse.Namespace) -> Server:
    log, port, flags = args.work / f"{case.name}.log", args.port + 1, _flags(args, case.burst)
    if case.plain:
        server = plain_server(model.folder, port, flags, log)
        server.name = "plain too"
        return server
    config = case.config(args.work / "cases" / model.name / case.name, model.size)
    return pilothouse_server(model.folder, config, port, flags, log)


def _idle(plain: Server, other: Server) -> dict[str, float]:
    """What both cost while nobody asks: a busy idle server would slow the other's turn."""
    time.sleep(SETTLE_S)
    at_rest = [
        _noted(f"{server.name} at rest", server.idle_cores(IDLE_WATCH_S), BUSY_IDLE_CORES)
        for server in (plain, other)
    ]
    return {
        "plain_idle_cores": at_rest[0],
        "other_idle_cores": at_rest[1],
        "load_average": round(os.getloadavg()[0], 2),
        "seconds_to_start": round(other.seconds_to_start, 1),
    }


def _noted(who: str, cores: float, most: float) -> float:
    if cores > most:
        say(f"  note: {who} used {cores:.2f} cores, more than {most}: expect wide intervals")
    return round(cores, 3)


def _prove(
    case: Case, other: Server, before: dict[str, dict[str, float]], done: Sequence[Load]
) -> None:
    if case.plain:
        return
    after = other.counters()
    grown = {
        metric: {
            label: value - before.get(metric, {}).get(label, 0.0)
            for label, value in series.items()
            if value != before.get(metric, {}).get(label, 0.0)
        }
        for metric, series in after.items()
    }
    total = Load(
        requests=sum(each.requests for each in done),
        prompt_tokens=sum(each.prompt_tokens for each in done),
        output_tokens=sum(each.output_tokens for each in done),
    )
    problems = case.proof(grown, total)
    if problems:
        raise ProofError(
            f"{case.name}: the server's counters do not show what was to be measured:\n  "
            + "\n  ".join(problems)
        )


@contextmanager
def _running(server: Server) -> Iterator[Server]:
    with ExitStack() as stack:
        stack.callback(server.stop)
        say(f"  starting {server.name} on port {server.port}, log {server.log}")
        server.start()
        say(f"  {server.name} is up after {server.seconds_to_start:.0f} s")
        yield server


def _flags(args: argparse.Namespace, burst: Profile) -> list[str]:
    """Every request of a burst is in the batch at once; small blocks where seats are many."""
    seats = max(LEAST_SEATS, burst.requests)
    blocks = ["--block-size", "64"] if seats > LEAST_SEATS else []
    return [
        "--host",
        "127.0.0.1",
        "--dtype",
        args.dtype,
        "--served-model-name",
        SERVED_NAME,
        "--max-model-len",
        "512",
        "--max-num-seqs",
        str(seats),
        *blocks,
        "--disable-uvicorn-access-log",
        *args.vllm_flag,
    ]


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add(
        "--model",
        choices=CASES_ON,
        default="random",
        help="what is served: random weights, or the demo's real model (default %(default)s)",
    )
    add(
        "--case",
        action="append",
        metavar="NAME",
        help=f"only this case, may be repeated: {', '.join(EVERY)}; demo with --model smol "
        f"(default: all with a goal; with --model smol {', '.join(SMOL_BY_DEFAULT)})",
    )
    add(
        "--pairs",
        type=int,
        help=f"pairs per case, at least {MIN_PAIRS}; under {MIN_PAIRS_TO_JUDGE} nothing counts as "
        f"met or missed (default {PAIRS}, {QUICK_PAIRS} with --quick)",
    )
    add("--quick", action="store_true", help="a smoke test: few pairs, no page under results/")
    add(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        help="plain vLLM's port, Pilothouse takes the next (default %(default)s)",
    )
    add("--dtype", default="float32", help="of both servers (default %(default)s)")
    add(
        "--hardware",
        help="word in the names of the result files (default: cpu and the number of cores, with "
        "-smol behind it for that model)",
    )
    add(
        "--json",
        type=Path,
        default=Path(os.environ.get("BENCH_JSON", "bench.json")),
        help="ratios by case (default: $BENCH_JSON, else bench.json)",
    )
    add(
        "--results",
        type=Path,
        help="folder of the page and raw figures "
        "(default: results/ beside this file, none with --quick)",
    )
    add(
        "--work",
        type=Path,
        default=HERE.parent / "build" / "loadtest",
        help="model, configs and logs",
    )
    add(
        "--vllm-flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="one more word for both servers' command lines, e.g. --vllm-flag=--enforce-eager",
    )
    args = parser.parse_args(words)
    args.pairs = args.pairs or (QUICK_PAIRS if args.quick else PAIRS)
    if args.pairs < MIN_PAIRS:
        parser.error(f"--pairs: got {args.pairs}, want at least {MIN_PAIRS} for an interval")
    cases, by_default = CASES_ON[args.model]
    asked = dict.fromkeys(args.case or by_default)
    unknown = [name for name in asked if name not in cases]
    if unknown:
        parser.error(
            f"--case: got {', '.join(unknown)}, want one of {', '.join(cases)} with --model "
            f"{args.model}"
        )
    args.case = [cases[name] for name in asked]
    on = "" if args.model == "random" else f"-{args.model}"
    args.hardware = args.hardware or f"cpu{len(os.sched_getaffinity(0))}{on}"
    if args.results is None and not args.quick:
        args.results = HERE / "results"
    args.work = args.work.resolve()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    # Both servers compile in the same way, and find the code at their next start.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(args.work / "compiled"))
    keep_compiled_code()
    return args


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
