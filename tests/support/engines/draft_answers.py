"""Requests that are asked of engines with and without drafts, and a program that asks them.

`python -m tests.support.engines.draft_answers MODEL ngram OUT` writes what came back to OUT,
pickled: vLLM starts no second engine in a process that has loaded numba, which its n-gram drafter
does. With `model` a model drafts; with `stages` none does, and the model is spread over two
processes. `--v2` takes vLLM's second model runner.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pilothouse.artifacts.catalog import Catalog
from pilothouse.engine.launch import WORKER
from pilothouse.engine.plan.plan import Plan
from pilothouse.record import Record
from pilothouse.term import Positions, SteerTerm
from tests.reference.hf_hooks import HookedModel
from tests.support.engines.catalogs import policy, probe, readout, vector
from tests.support.engines.drafters import NGRAM, watch_drafts
from tests.support.engines.harness import Engine, all_logprobs, engine, make_plan, random_rows
from tests.support.parity.steering import V2_WORKER

STAGED_WORKER = "tests.support.engines.pipeline_worker.StagedWorker"
LAYER, VECTOR_LAYERS = 2, (1, 2)
ANSWER_TOKENS = 26
PROMPT = np.random.default_rng(5).integers(3, 256, 12).tolist() * 3
LEVELS = (0.4, 0.6, 0.8)
NUM_PROBES = 4
STREAKS = (1, 2, 3)


@dataclass(frozen=True)
class Answer:
    """What came of one request."""

    tokens: list[int]
    sent: list[int]
    end: tuple[str | None, object]
    logprobs: np.ndarray | None
    token_scores: dict[int, dict[str, float]]
    closing: Record


def block_name(probe: int, level: float, streak: int) -> str:
    """A policy's name."""
    return f"p{probe}-at-{round(100 * level)}-for-{streak}"


def world_plan(model: Path) -> Plan:
    """Two vectors, probes whose scores spread, and a block at each level and length of run."""
    stream_TD = HookedModel(model).run(PROMPT).streams[LAYER]
    probes = {}
    for i in range(NUM_PROBES):
        row_D = random_rows(8 + i, 1)[0]
        logits_T = stream_TD @ row_D
        probes[f"p{i}"] = probe(
            f"p{i}",
            {LAYER: (1.5 * row_D / logits_T.std()).astype(np.float32)},
            {
                "now": readout("output"),
                "mean": readout("output", "mean"),
                "prompt": readout("prompt", "max"),
            },
            bias=float(-1.5 * logits_T.mean() / logits_T.std()),
        )
    blocks = [
        policy(
            block_name(i, level, streak),
            [
                {
                    "id": "stop",
                    "phase": "output",
                    "when": f"x >= {level} for {streak} tokens",
                    "then": {"action": "block"},
                }
            ],
            {"x": f"p{i}/now"},
        )
        for i in range(NUM_PROBES)
        for level in LEVELS
        for streak in STREAKS
    ]
    push = policy(
        "push",
        [
            {
                "id": "push",
                "phase": "output",
                "when": "x >= 0.12",
                "then": {"action": "steer", "vector": "v", "scale": 1.0, "hold_tokens": 5},
            }
        ],
        {"x": "p0/now"},
    )
    catalog = Catalog(
        vectors={
            "v": vector("v", VECTOR_LAYERS, seed=1, norm=7.0),
            "w": vector("w", (0,), seed=2, norm=7.0),
        },
        probes=probes,
    )
    return make_plan(catalog, (*blocks, push))


def requests(marks: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Name -> how it is asked. `marks` are tokens of the plain answer."""
    v, w = SteerTerm(vector="v", scale=1.0), SteerTerm(vector="w", scale=-1.0)
    steerings: dict[str, tuple[SteerTerm, ...]] = {
        "none": (),
        "output": (v,),
        "prompt": (w.model_copy(update={"on": "prompt"}),),
        "all": (v.model_copy(update={"on": "all"}),),
        "window": (v.model_copy(update={"positions": Positions(window=(3, 9))}),),
        "two": (v, w.model_copy(update={"positions": Positions(first=4)})),
        "after": (v.model_copy(update={"positions": Positions(after=(marks[4],), span=3)}),),
    }
    asked: dict[str, dict[str, Any]] = {
        f"steer/{name}": {"steer": terms, "scores": "tokens", "logprobs": -1}
        for name, terms in steerings.items()
    }
    asked |= {
        f"length/{count}": {"steer": (v,), "scores": "tokens", "max_tokens": count}
        for count in range(1, 12)
    }
    asked |= {
        f"stop/{i}": {"scores": "tokens", "stop_token_ids": [mark]} for i, mark in enumerate(marks)
    }
    asked |= {
        f"block/{i}/{level}/{streak}": {
            "policies": [block_name(i, level, streak)],
            "scores": "tokens",
        }
        for i in range(NUM_PROBES)
        for level in LEVELS
        for streak in STREAKS
    }
    asked |= {
        f"held-stop/{i}": {"policies": [block_name(0, 0.8, 3)], "stop_token_ids": [mark]}
        for i, mark in enumerate(marks[:8])
    }
    asked["blocked-steered"] = {"policies": [block_name(1, 0.6, 2)], "steer": (v,), "logprobs": 2}
    return asked


def run(started: Engine, asked: dict[str, dict[str, Any]]) -> dict[str, Answer]:
    """Ask everything at once."""
    for name, more in asked.items():
        settings = {"max_tokens": ANSWER_TOKENS, "probes": ["p0"], "decision_id": name}
        started.add(name, PROMPT, started.params(**(settings | more)))
    outputs = started.drain()
    found = {}
    for name, more in asked.items():
        [choice] = outputs[name].outputs
        scores = {
            each.index: each.scores
            for record in started.records[name]
            for each in record.token_scores
        }
        found[name] = Answer(
            list(choice.token_ids),
            started.sent_tokens(name),
            (choice.finish_reason, choice.stop_reason),
            all_logprobs(outputs[name]) if more.get("logprobs") == -1 else None,
            scores,
            started.closing(name),
        )
    return found


def answer_marks(model: Path) -> list[int]:
    """The first tokens of the plain answer."""
    return HookedModel(model).generate(PROMPT, 14)


def main() -> None:
    """Command line."""
    from tests.support.engines import draft_answers as drafted

    model, method, out = (each for each in sys.argv[1:] if each != "--v2")
    folder, worker = Path(model), V2_WORKER if "--v2" in sys.argv else WORKER
    settings: dict[str, dict[str, Any]] = {
        "ngram": {"speculative_config": NGRAM},
        "model": {
            "speculative_config": {
                "method": "draft_model",
                "model": model,
                "num_speculative_tokens": 2,
            },
        },
        "stages": {
            "worker": worker if worker == V2_WORKER else STAGED_WORKER,
            "pipeline_parallel_size": 2,
            "distributed_executor_backend": "mp",
        },
    }
    chosen = {"worker": worker} | settings[method]
    with engine(folder, world_plan(folder), **chosen) as started:
        seen = watch_drafts(started)
        # By the module's own name, which whoever reads the file knows the classes by.
        found = drafted.run(started, requests(answer_marks(folder)))
    Path(out).write_bytes(pickle.dumps((found, seen)))


if __name__ == "__main__":
    main()
