"""A program: start a guarded engine as a server would, and print its answers as JSON.

`python -m tests.support.engines.print_answers MODEL [--workers 2] [--stages 2] [--compiled]
[--layers 1 2]`. Unlike the harness, engine and workers have processes of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from typing import Any

import numpy as np
from vllm import LLM, SamplingParams

from pilothouse.artifacts.catalog import Catalog
from pilothouse.engine.launch import SCHEDULER, WORKER, guard_environment
from pilothouse.engine.vllm import output_processor
from pilothouse.record import Record
from pilothouse.signed_request import (
    SIGNED_REQUEST_KEY,
    AppliedPolicy,
    SignedRequest,
    seal,
    signing_key,
)
from pilothouse.term import SteerTerm
from pilothouse.types import Site
from tests.support.engines.catalogs import policy, probe, readout, vector
from tests.support.engines.harness import BLOCK, KV_BYTES, all_logprobs, make_plan, random_rows

STAGED_WORKER = "tests.support.engines.pipeline_worker.StagedWorker"
READOUTS = {"mean": readout("answer", "mean"), "all": readout("prompt", "max")}
PROMPT = np.random.default_rng(2).integers(3, 256, 29).tolist()


def at(site: Site, artefact: Any) -> Any:
    """The same artefact at another site."""
    return replace(artefact, site=site)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--stages", type=int, default=1)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    rows = random_rows(3, 4)
    plan = make_plan(
        Catalog(
            vectors={
                "v": vector("v", args.layers, seed=1, norm=6.0),
                "embed": at("embed", vector("embed", [0], seed=4, norm=3.0)),
                "pre": at("resid_pre", vector("pre", [2], seed=5, norm=6.0)),
            },
            probes={
                "p": probe("p", {0: rows[0], 3: rows[1]}, READOUTS),
                "embed": at("embed", probe("embed", {0: rows[2]}, READOUTS)),
                "pre": at("resid_pre", probe("pre", {2: rows[3]}, READOUTS)),
            },
        ),
        (
            policy(
                "stop",
                [
                    {
                        "id": "r",
                        "phase": "prompt",
                        "when": "x >= 0.000001",
                        "then": {"action": "block"},
                    }
                ],
                {"x": "p/all"},
            ),
        ),
    )
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(
        str(i) for i in range(args.workers * args.stages)
    )
    guard_environment()
    output_processor.install()
    records: dict[str, Record] = {}
    output_processor.subscribe(lambda record: records.update({record.decision_id: record}))
    engine = LLM(
        args.model,
        dtype="float32",
        skip_tokenizer_init=True,
        enforce_eager=not args.compiled,
        max_model_len=128,
        seed=0,
        max_logprobs=-1,
        kv_cache_memory_bytes=KV_BYTES,
        block_size=BLOCK,
        tensor_parallel_size=args.workers,
        pipeline_parallel_size=args.stages,
        worker_cls=STAGED_WORKER if args.stages > 1 and not args.compiled else WORKER,
        scheduler_cls=SCHEDULER,
        additional_config=plan.to_additional_config(),
    )

    def params(name: str, **sealed: Any) -> SamplingParams:
        request = SignedRequest(decision_id=name, revision=plan.revision, **sealed)
        return SamplingParams(
            temperature=0.0,
            max_tokens=6,
            ignore_eos=True,
            detokenize=False,
            logprobs=-1,
            extra_args={SIGNED_REQUEST_KEY: seal(request, signing_key())},
        )

    asked = {"plain": ()} | {
        name: (SteerTerm(vector=name, scale=1.0, on="all"),) for name in ("v", "embed", "pre")
    }
    *outputs, blocked = engine.generate(
        [{"prompt_token_ids": PROMPT}] * (len(asked) + 1),
        [
            *(params(name, probes=("p",), steer=steer) for name, steer in asked.items()),
            params("blocked", policies=(AppliedPolicy(name="stop", enforced=True),)),
        ],
        use_tqdm=False,
    )
    found = {
        "tokens": [list(each.outputs[0].token_ids) for each in outputs],
        "logprobs": [all_logprobs(each).tolist() for each in outputs],
        "scores": [[value for _, value in sorted(records[name].values.items())] for name in asked],
        "blocked": [
            blocked.outputs[0].stop_reason == "pilothouse:block"
            and not blocked.outputs[0].token_ids
        ],
        "installed": engine.collective_rpc("pilothouse_installed"),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
