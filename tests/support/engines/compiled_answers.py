"""A program: a compiled engine's answers in one digest, and how much of its code was found.

`python -m tests.support.engines.compiled_answers [--plain]`: under a plan with a vector and a
probe, or plain vLLM.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from pilothouse.engine.vllm.compiled_code import keep_compiled_code, kept_in

if "--plain" not in sys.argv:
    keep_compiled_code()  # before torch is imported, as `pilothouse serve` does

from torch._dynamo.utils import counters

from pilothouse.artifacts.catalog import Catalog
from pilothouse.term import SteerTerm
from tests.support.engines.catalogs import probe, readout, vector
from tests.support.engines.harness import all_logprobs, engine, make_plan, random_rows
from tests.support.models.tiny_architectures import make_architecture

LENGTHS = (1, 5, 17, 33)
STEER = (SteerTerm(vector="v", scale=1.0, on="all"),)


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain", action="store_true", help="without a plan of ours")
    args = parser.parse_args()
    plan = (
        None
        if args.plain
        else make_plan(
            Catalog(
                vectors={"v": vector("v", (0, 1, 2, 3), norm=50.0)},
                probes={"p": probe("p", {3: random_rows(9, 1)[0]}, {"all": readout("output")})},
            )
        )
    )
    digest = hashlib.sha256()
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        model = make_architecture(Path(folder), "qwen3")
        with engine(model, plan, enforce_eager=False) as started:
            asked = {} if plan is None else {"steer": STEER, "probes": ["p"]}
            for length in LENGTHS:
                prompt = draw.integers(3, 256, length).tolist()
                params = started.params(max_tokens=8, logprobs=-1, **asked)
                [output] = started.run([prompt], params)
                digest.update(np.asarray(output.outputs[0].token_ids, np.int64).tobytes())
                digest.update(all_logprobs(output).tobytes())
    found = {
        "digest": digest.hexdigest(),
        "found": counters["inductor"]["fxgraph_cache_hit"],
        "made": counters["inductor"]["fxgraph_cache_miss"],
        "kept_in": kept_in(),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
