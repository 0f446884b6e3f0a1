"""Plain vLLM and Pilothouse in turn: how long until a server answers, and what does it take?

    python loadtest/startup.py                          five pairs on the real model, cold and warm
    python loadtest/startup.py --only warm --pairs 3    only starts that find compiled code
    python loadtest/startup.py --model random --eager   nothing is compiled

A cold start has an empty folder of compiled code, a warm one that of the start before. See
README.md in this folder for the method.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from benchmodel import BenchModel, model_at, random_model, smol_model
from environment import OtherWork, environment
from interrupted import Interrupted, end_servers_when_interrupted, say
from paired import order_of
from peak_memory import PeakMemory
from pilothouse.errors import PilothouseError
from pilothouse.library import library_path
from pilothouse.progress import waiting
from scenario import SERVED_NAME
from server import Server, ServerError, pilothouse_server, plain_server
from startup_report import Kind, Start, Who, line, summaries, table, write

HERE = Path(__file__).resolve().parent
DEFAULT_PORT = 8880
PAIRS = 5
POLL_S = 0.1
QUESTION = "What is the capital of France?"
ANSWER_TOKENS = 16
ANSWER_TIMEOUT_S = 300.0
GOOD, FINDING, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
CACHES = {
    "VLLM_CACHE_ROOT": "vllm",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
}
"""Where vLLM, torch and Triton keep what they compile: folders in one of each server's own."""


def main(words: Sequence[str]) -> int:
    """Run the starts; 1 where the goal was missed."""
    args = _arguments(words)
    end_servers_when_interrupted()
    starts: list[Start] = []
    try:
        _run(args, starts)
    except Interrupted:
        say(f"interrupted: the server is stopped, {len(starts)} starts are in {args.json}")
        return INTERRUPTED
    except (ServerError, PilothouseError, httpx.HTTPError) as error:
        say(f"startup: {error}")
        return WRONG_USE
    return FINDING if any(each.standing == "missed" for each in summaries(starts)) else GOOD


def _run(args: argparse.Namespace, starts: list[Start]) -> None:
    about = environment()
    model = _model(args)
    config = _config(args, model)
    flags = _flags(args)
    setup = {
        "model": model.about,
        "pilothouse_config": config and f"{config.parent.name}/{config.name}",
        "flags": flags,
        "environment_of_both": args.env,
        "question": QUESTION,
    }
    say(f"{about['processor']}, {about['cores']} cores, load {about['load_average_at_start']}")
    args.json.parent.mkdir(parents=True, exist_ok=True)

    def start(who: Who, kind: Kind, pair: int, caches: Path) -> Start:
        log = args.work / f"start-{who}.log"
        server = (
            plain_server(model.folder, args.port, flags, log)
            if who == "plain"
            else pilothouse_server(model.folder, config, args.port, flags, log)
        )
        places = {name: str(caches / who / part) for name, part in CACHES.items()}
        server.environment |= places | args.env
        found = measure(server, who, kind, pair)
        say(line(found))
        return found

    if args.kinds == ("warm",):
        for who in _order(0):
            say(f"{who}: a start that fills its folder of compiled code, and does not count")
            start(who, "warm", -1, args.work / "compiled-for-starts" / model.name)
    for pair in range(args.pairs):
        with _caches(args, model) as caches:
            for kind in args.kinds:
                for who in _order(pair):
                    starts.append(start(who, kind, pair, caches))
                    write(args.json, about, setup, starts)
    print(f"\n{table(starts)}\n\nwrote {args.json}", flush=True)


def measure(server: Server, who: Who, kind: Kind, pair: int) -> Start:
    """Start a server, ask it one short chat and end it.

    Raises:
        ServerError: it did not start, or its answer has no text.
    """
    server.poll_s = POLL_S
    with ExitStack() as stack:
        stack.callback(server.stop)
        memory = stack.enter_context(PeakMemory(server.family))
        others = OtherWork((server,))
        with waiting(f"{who}, {kind}: until it is ready"):
            server.start()
        cpu_s, cores = server.cpu_seconds(), others.cores()
        first_token_s = _first_token(server)
        return Start(
            who=who,
            kind=kind,
            pair=pair,
            order=order_of(max(pair, 0)),
            ready_s=round(server.seconds_to_start, 2),
            first_token_s=round(first_token_s, 3),
            cpu_s=round(cpu_s, 1),
            peak_mib=round(memory.proportional_mib),
            peak_resident_mib=round(memory.resident_mib),
            processes=memory.processes,
            cores_used_by_others=round(cores, 3),
        )


def _first_token(server: Server) -> float:
    """Seconds from a short chat to the first piece of its answer."""
    body = {
        "model": SERVED_NAME,
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
        "temperature": 0,
        "max_tokens": ANSWER_TOKENS,
        "ignore_eos": True,
    }
    began, found = time.perf_counter(), None
    with httpx.stream(
        "POST", f"{server.url}/v1/chat/completions", json=body, timeout=ANSWER_TIMEOUT_S
    ) as answer:
        if answer.status_code != 200:
            raise ServerError(f"{server.name} answered {answer.status_code}: {answer.read()!r}")
        for text in answer.iter_lines():
            if found is None and _says_something(text):
                found = time.perf_counter() - began
    if found is None:
        raise ServerError(f"{server.name} answered without any text")
    return found


def _says_something(text: str) -> bool:
    if not text.startswith("data: {"):
        return False
    choices = json.loads(text.removeprefix("data: "))["choices"]
    return bool(choices and choices[0]["delta"].get("content"))


def _order(pair: int) -> tuple[Who, Who]:
    return ("plain", "pilothouse") if order_of(pair) == "plain first" else ("pilothouse", "plain")


@contextmanager
def _caches(args: argparse.Namespace, model: BenchModel) -> Iterator[Path]:
    """The folder of a pair's compiled code: an empty one unless all starts are warm."""
    if "cold" not in args.kinds:
        yield args.work / "compiled-for-starts" / model.name
        return
    with tempfile.TemporaryDirectory(dir=args.work, prefix="compiled-") as folder:
        yield Path(folder)


def _model(args: argparse.Namespace) -> BenchModel:
    if args.model == "smol":
        return smol_model()
    return random_model(args.work) if args.model == "random" else model_at(Path(args.model))


def _config(args: argparse.Namespace, model: BenchModel) -> Path | None:
    if args.config is not None:
        return args.config.resolve()
    return library_path("probes/smol") / "pilothouse.yaml" if model.name == "smol" else None


def _flags(args: argparse.Namespace) -> list[str]:
    eager = ["--enforce-eager"] if args.eager else []
    return [
        "--host",
        "127.0.0.1",
        "--dtype",
        args.dtype,
        "--served-model-name",
        SERVED_NAME,
        "--max-model-len",
        "1024",
        "--max-num-seqs",
        "32",
        "--disable-uvicorn-access-log",
        *eager,
        *args.vllm_flag,
    ]


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"got {text!r}, want NAME=VALUE")
    return name, value


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", default="smol", help="smol, random or a folder (default %(default)s)")
    add("--pairs", type=int, default=PAIRS, help="starts of each server and kind (default 5)")
    add("--only", choices=("cold", "warm"), help="starts of this kind alone (default: both)")
    add("--eager", action="store_true", help="compile nothing; there is then one kind of start")
    add(
        "--env",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable of both servers, e.g. VLLM_USE_AOT_COMPILE=0; may be repeated",
    )
    add("--config", type=Path, help="Pilothouse's pilothouse.yaml (default: for smol the demo's)")
    add("--dtype", default="float32", help="of both servers (default %(default)s)")
    add("--port", type=int, default=DEFAULT_PORT, help="of each server (default %(default)s)")
    add("--hardware", help="word in the name of the result (default: cores, model and mode)")
    add("--json", type=Path, help="the result (default: results/startup_HARDWARE_MONTH.json)")
    add(
        "--work",
        type=Path,
        default=HERE.parent / "build" / "loadtest",
        help="models, compiled code and logs",
    )
    add(
        "--vllm-flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="one more word for both servers' command lines",
    )
    args = parser.parse_args(words)
    if args.pairs < 1:
        parser.error(f"--pairs: got {args.pairs}, want at least 1")
    if args.eager and args.only:
        parser.error("--only: goes with compiled starts, and --eager compiles nothing")
    kinds: tuple[Kind, ...] = (args.only,) if args.only else ("cold", "warm")
    args.kinds = ("eager",) if args.eager else kinds
    args.env = dict(args.env)
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    args.json = (args.json or _result(args)).resolve()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    return args


def _result(args: argparse.Namespace) -> Path:
    name = Path(args.model).name
    mode = "-eager" if args.eager else ""
    hardware = args.hardware or f"cpu{len(os.sched_getaffinity(0))}-{name}{mode}"
    return HERE / "results" / f"startup_{hardware}_{time.strftime('%Y%m', time.gmtime())}.json"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
