"""A program: what `LLM.capture` writes at every served site against transformers with hooks.

`python -m tests.support.parity.capture llama --v2 --compiled --workers 2`, for settings that need a
process of their own.

Shape suffixes: N rows, T positions, D width of a site.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import pilothouse.llm as llm_module
from pilothouse import LLM, CaptureReader
from pilothouse.artifacts.catalog import SERVED_SITES
from tests.reference.hf_sites import SiteModel
from tests.support.engines.harness import BLOCK, ENVIRONMENT, KV_BYTES
from tests.support.models.tiny_architectures import architectures, make_architecture

V2_WORKER = "tests.support.engines.v2_worker.V2GuardedWorker"
TOLERANCE = 1e-4
LENGTHS = (5, 61, 90, 17, 33, 70)
LAYERS = (0, 1, 3)
MAX_TOKENS = 12
SMALL_CACHE = {"num_gpu_blocks_override": 9, "max_num_batched_tokens": 32, "max_num_seqs": 8}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=sorted(architectures()))
    parser.add_argument("--v2", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    settings: dict[str, Any] = {"enforce_eager": not args.compiled}
    if args.workers > 1:
        binding = "|".join(str(i) for i in range(args.workers))
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = binding
        settings["tensor_parallel_size"] = args.workers
    else:
        os.environ.update(ENVIRONMENT)
        settings["distributed_executor_backend"] = "uni"
    if args.v2:
        llm_module.WORKER = V2_WORKER
    with tempfile.TemporaryDirectory() as folder:
        error = largest_error(args.name, Path(folder), settings)
    assert error <= TOLERANCE, error
    sys.stdout.write(f"parity holds, largest error {error:.1e}\n")


def largest_error(name: str, folder: Path, settings: dict[str, Any]) -> float:
    """Over every row of every place, after preemption and chunked prefill."""
    model = folder / "model"
    model.mkdir()
    make_architecture(model, name)
    draw = np.random.default_rng(7)
    prompts = [draw.integers(3, 256, length).tolist() for length in LENGTHS]
    llm = LLM(
        str(model),
        dtype="float32",
        skip_tokenizer_init=True,
        max_model_len=128,
        seed=0,
        kv_cache_memory_bytes=KV_BYTES,
        block_size=BLOCK,
        **(SMALL_CACHE | settings),
    )
    reader = llm.capture(
        prompts,
        LAYERS,
        sites=[site for site in SERVED_SITES if site != "embed"],
        positions="all",
        max_tokens=MAX_TOKENS,
        out=folder / "rows",
        rows_per_shard=41,
        progress=False,
    )
    assert reader.complete
    return max(errors(reader, SiteModel(model, name), prompts))


def errors(reader: CaptureReader, reference: SiteModel, prompts: list[list[int]]) -> list[float]:
    """The largest of each prompt and place."""
    found = []
    for place in reader.places:
        activations_ND, labels = reader.layer(*place)
        for number, prompt in enumerate(prompts):
            mine = labels.prompt_R == number
            tokens = labels.token_id_R[mine].tolist()
            assert tokens[: len(prompt)] == prompt and len(tokens) > len(prompt)
            assert labels.position_R[mine].tolist() == list(range(len(tokens)))
            want_TD = reference.run(tokens).values[place.layer, place.site]
            found.append(float(np.abs(activations_ND[mine] - want_TD).max()))
    return found


if __name__ == "__main__":
    main()
