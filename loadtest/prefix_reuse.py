"""Conversations and shared system prompts under an enforced rule: what is left of the prefix cache?

    python loadtest/prefix_reuse.py --out build/prefix_reuse.json

Plain vLLM with its prefix cache and Pilothouse with 8 probes and an enforced rule that reads every
prompt take the same requests in turn: conversations of 8 turns, and 32 requests over one system
prompt of 2,000 tokens. Two figures of each: time to first token and throughput, as ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmodel import Shape, ensure_model, num_words, word
from environment import environment
from paired import Pair, order_of, summarise, verdict_line
from scenario import PROBE_LAYER, SERVED_NAME, Size, write_probes
from server import Server, ServerError, pilothouse_server, plain_server

GOAL = 0.97
ROUNDS = 8
WARM_UPS = 1
TURNS, TALKERS, TURN_WORDS = 8, 4, 40
SHARED_WORDS, ASKERS, AT_ONCE, QUESTION_WORDS = 2000, 32, 8, 24
OUTPUT_TOKENS = 24
SHAPE = Shape(max_position_embeddings=4096)
SETTLE_S = 1.5
"""A worker of vLLM polls for 1 s after its last step; only then is a server idle."""
PROBES = 8
LOADS = ("conversations", "system prompt")
FIGURES = ("time to first token", "throughput")


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer."""

    first_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Round:
    """One load on one server."""

    first_s: float
    """Median over its requests."""
    tokens_per_s: float


class AnswerError(RuntimeError):
    """An answer that was refused or has another length than was forced."""


def main(words: Sequence[str]) -> int:
    """Run all rounds, print the table and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file of every round")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="pairs of each load")
    parser.add_argument("--work", type=Path, default=Path("build/loadtest"))
    parser.add_argument("--port", type=int, default=8890, help="of the first server; one more each")
    parser.add_argument(
        "--without-rows",
        action="store_true",
        help="with limits.read_cache_mib: 0, under which such requests take nothing from the cache",
    )
    given = parser.parse_args(words)
    if given.rounds < 2:
        parser.error("--rounds: want at least 2 for an interval")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    about = environment()
    try:
        found = _measured(given)
    except (ServerError, AnswerError) as error:
        _tell(f"prefix_reuse: {error}")
        return 2
    except KeyboardInterrupt:
        _tell("interrupted: the servers are stopped")
        return 130
    report = {
        "environment": about,
        "goal": GOAL,
        "rounds": given.rounds,
        "read_cache_mib": 0 if given.without_rows else "default",
        "loads": {
            "conversations": {"turns": TURNS, "at_once": TALKERS, "words_a_turn": TURN_WORDS},
            "system prompt": {"words": SHARED_WORDS, "requests": ASKERS, "at_once": AT_ONCE},
        },
        "output_tokens": OUTPUT_TOKENS,
        "model": asdict(SHAPE),
        "figures": {},
    }
    for load in LOADS:
        for figure in FIGURES:
            pairs = [_pair(figure, *each) for each in found[load]]
            summary = summarise(pairs)
            line = verdict_line(summary, GOAL)
            report["figures"][f"{load}: {figure}"] = asdict(summary) | {
                "verdict": line,
                "pairs": [asdict(each) for each in pairs],
            }
            print(
                f"{load:>14} {figure:<20} {summary.ratio_median:.3f} "
                f"[{summary.ratio_low:.3f}, {summary.ratio_high:.3f}]  {line}"
            )
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _pair(figure: str, order: Any, plain: Round, ours: Round) -> Pair:
    """As tokens per second, or as first tokens per second, so that more is better."""
    if figure == FIGURES[0]:
        return Pair(order, 1 / plain.first_s, 1 / ours.first_s)
    return Pair(order, plain.tokens_per_s, ours.tokens_per_s)


def _measured(given: argparse.Namespace) -> dict[str, list[tuple[Any, Round, Round]]]:
    model = ensure_model(given.work, SHAPE)
    flags = (
        "--served-model-name",
        SERVED_NAME,
        "--dtype",
        "float32",
        "--max-num-seqs",
        "32",
        "--enable-prefix-caching",
        "--max-model-len",
        str(SHAPE.max_position_embeddings),
    )
    folder = given.work / "prefix_reuse"
    config = _config(folder, model.name, given.without_rows)
    with ExitStack() as running:
        servers: list[Server] = []
        for server in (
            plain_server(model, given.port, flags, folder / "plain.log"),
            pilothouse_server(model, config, given.port + 1, flags, folder / "pilothouse.log"),
        ):
            _tell(f"starting {server.name}")
            running.callback(server.stop)
            server.start()
            servers.append(server)
        found: dict[str, list[tuple[Any, Round, Round]]] = {load: [] for load in LOADS}
        for number in range(-WARM_UPS, given.rounds):
            for load in LOADS:
                order = order_of(number)
                turns = servers if order == "plain first" else servers[::-1]
                rounds = {}
                for server in turns:
                    time.sleep(SETTLE_S)
                    rounds[server.name] = asyncio.run(_load(load, server.url, f"{load}-{number}"))
                if number >= 0:
                    pair = (rounds[servers[0].name], rounds[servers[1].name])
                    found[load].append((order, *pair))
                    _tell(f"{load} {number + 1} of {given.rounds}: plain {pair[0]}, ours {pair[1]}")
        _prove(servers[1])
    return found


def _config(folder: Path, model_id: str, without_rows: bool) -> Path:
    size = Size(model_id, SHAPE.hidden_size, SHAPE.num_hidden_layers)
    probes = write_probes(folder, size, PROBES, [PROBE_LAYER])
    place = folder / "policies" / "prompt" / "policy.yaml"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(_policy(list(probes))), encoding="utf-8")
    said: dict[str, Any] = {
        "version": 1,
        "model_id": model_id,
        "probes": probes,
        "policies": ["policies/prompt"],
    }
    if without_rows:
        said["limits"] = {"read_cache_mib": 0}
    path = folder / "pilothouse.yaml"
    path.write_text(json.dumps(said), encoding="utf-8")
    return path


def _policy(probes: Sequence[str]) -> dict[str, Any]:
    """An enforced rule over every probe of the prompt, which never fires."""
    rule = {
        "id": "prompt",
        "phase": "prompt",
        "then": {"action": "block"},
        "when": " or ".join(f"{each} >= 0.99" for each in probes),
    }
    signals = {each: {"probe": each, "readout": "prompt_max"} for each in probes}
    return {
        "apiVersion": "pilothouse/v1",
        "kind": "Policy",
        "metadata": {
            "name": "prompt",
            "title": "Load test",
            "category": "operations",
            "severity": "low",
            "description": "Reads every probe on every prompt.",
        },
        "spec": {"mode": "enforce", "signals": signals, "rules": [rule]},
    }


def _prove(server: Server) -> None:
    """Raises AnswerError where a token went by without a score."""
    unscored = server.counters().get("pilothouse_unscored_tokens_total", {})
    if sum(unscored.values()):
        raise AnswerError(f"tokens went by unscored: {unscored}")


async def _load(load: str, url: str, seed: str) -> Round:
    """Send a load to a server; prompts depend on the seed alone, and no two rounds share any."""
    draw = random.Random(seed)

    def text(count: int) -> str:
        return " ".join(word(draw.randrange(num_words(SHAPE))) for _ in range(count))

    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        began = time.perf_counter()
        if load == "conversations":
            said = [[text(TURN_WORDS) for _ in range(TURNS)] for _ in range(TALKERS)]
            talks = await asyncio.gather(*(_talk(client, each) for each in said))
            answers = [answer for talk in talks for answer in talk]
        else:
            seats = asyncio.Semaphore(AT_ONCE)
            system = {"role": "system", "content": text(SHARED_WORDS)}
            questions = [text(QUESTION_WORDS) for _ in range(ASKERS)]

            async def seated(question: str) -> Answer:
                async with seats:
                    return await _ask(client, [system, {"role": "user", "content": question}])

            answers = await asyncio.gather(*(seated(each) for each in questions))
        seconds = time.perf_counter() - began
    return Round(median(each.first_s for each in answers), OUTPUT_TOKENS * len(answers) / seconds)


async def _talk(client: httpx.AsyncClient, said: Sequence[str]) -> list[Answer]:
    messages: list[dict[str, str]] = []
    answers = []
    for turn in said:
        messages.append({"role": "user", "content": turn})
        answers.append(await _ask(client, messages))
        messages.append({"role": "assistant", "content": answers[-1].text})
    return answers


async def _ask(client: httpx.AsyncClient, messages: list[dict[str, str]]) -> Answer:
    body = {
        "model": SERVED_NAME,
        "messages": messages,
        "stream": True,
        "temperature": 0.0,
        "max_tokens": OUTPUT_TOKENS,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    began, first_s, text, tokens = time.perf_counter(), 0.0, "", 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as lines:
        if lines.status_code != httpx.codes.OK:
            raise AnswerError(f"{lines.status_code}: {(await lines.aread()).decode()[:500]}")
        async for line in lines.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
            for choice in chunk["choices"]:
                text += choice["delta"].get("content") or ""
                if text and not first_s:
                    first_s = time.perf_counter() - began
    if tokens != OUTPUT_TOKENS or not first_s:
        raise AnswerError(f"an answer has {tokens} tokens, {OUTPUT_TOKENS} were forced")
    return Answer(first_s, text)


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
