"""A program: start a guarded engine as a server would, and print its answers as JSON.

`python -m tests.engine.answers MODEL [--workers 2] [--compiled] [--layers 1 2]`. Unlike the
harness, engine and workers have processes of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

import numpy as np
from vllm import LLM, SamplingParams

from pilothouse.engine import pickup
from pilothouse.engine.launch import SCHEDULER, WORKER, guard_environment
from pilothouse.model.catalogue import Catalogue
from pilothouse.record import Record
from pilothouse.sealed import SEALED_KEY, AppliedPolicy, SealedRequest, seal, seal_key
from pilothouse.term import SteerTerm
from tests.engine.harness import BLOCK, KV_BYTES, all_logprobs, make_plan, random_rows
from tests.engine.worlds import policy, probe, readout, vector

PROMPT = np.random.default_rng(2).integers(3, 256, 29).tolist()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    rows = random_rows(3, 2)
    plan = make_plan(
        Catalogue(
            vectors={"v": vector("v", args.layers, seed=1, norm=6.0)},
            probes={"p": probe("p", {0: rows[0], 3: rows[1]}, {"mean": readout("answer", "mean"),
                                                              "all": readout("prompt", "max")})},
        ),
        (
            policy("stop", [{"id": "r", "phase": "prompt", "when": "x >= 0.000001",
                             "then": {"action": "block"}}], {"x": "p/all"}),
        ),
    )  # fmt: skip
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(str(i) for i in range(args.workers))
    guard_environment()
    pickup.install()
    records: dict[str, Record] = {}
    pickup.subscribe(lambda record: records.update({record.decision_id: record}))
    engine = LLM(
        args.model, dtype="float32", skip_tokenizer_init=True, enforce_eager=not args.compiled,
        max_model_len=128, seed=0, max_logprobs=-1, kv_cache_memory_bytes=KV_BYTES,
        block_size=BLOCK, tensor_parallel_size=args.workers, worker_cls=WORKER,
        scheduler_cls=SCHEDULER, additional_config=plan.to_additional_config(),
    )  # fmt: skip

    def params(name: str, **sealed: Any) -> SamplingParams:
        request = SealedRequest(decision_id=name, revision=plan.revision, **sealed)
        return SamplingParams(
            temperature=0.0, max_tokens=6, ignore_eos=True, detokenize=False, logprobs=-1,
            extra_args={SEALED_KEY: seal(request, seal_key())},
        )  # fmt: skip

    steer = (SteerTerm(vector="v", scale=1.0, on="all"),)
    outputs = engine.generate(
        [{"prompt_token_ids": PROMPT}] * 3,
        [
            params("plain", probes=("p",)),
            params("steered", probes=("p",), steer=steer),
            params("blocked", policies=(AppliedPolicy(name="stop", enforced=True),)),
        ],
        use_tqdm=False,
    )
    found = {
        "tokens": [list(each.outputs[0].token_ids) for each in outputs[:2]],
        "logprobs": [all_logprobs(each).tolist() for each in outputs[:2]],
        "scores": [sorted(records[name].values.values()) for name in ("plain", "steered")],
        "blocked": [outputs[2].outputs[0].stop_reason == "pilothouse:block"
                    and not outputs[2].outputs[0].token_ids],
    }  # fmt: skip
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
