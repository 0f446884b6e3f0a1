"""LoRA: adapters and steering on the same requests equal transformers with merged weights.

Shape suffixes: T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vllm.lora.request import LoRARequest

from pilothouse.engine.hooks import LAYOUTS
from pilothouse.term import SteerTerm
from tests.engine import test_untouched
from tests.reference.hf_hooks import HookedModel
from tests.support.engines.harness import BLOCK, Engine, all_logprobs, engine, make_plan
from tests.support.engines.hooked_worker import HOOKED_WORKER
from tests.support.models.lora_adapters import RANK, make_adapter
from tests.support.parity.steering import (
    CATALOGUE,
    COLUMN_LAYERS,
    LEAST_MOVE,
    OUTPUT_TOKENS,
    TOLERANCE,
    reference_edits,
)

pytestmark = pytest.mark.engine

LORA: dict[str, Any] = {
    "enable_lora": True,
    "max_lora_rank": RANK,
    "max_loras": 2,
    "enable_prefix_caching": True,
}
WIDE = {"max_norm_ratio": 1e6, "max_wait_ms": 120_000}
"""Nobody is turned away, however slow the machine."""
STEERINGS = {
    "plain": (),
    "output": (SteerTerm(vector="inner", scale=-1.0, on="output"),),
    "all": (SteerTerm(vector="outer", scale=1.0, on="all"),),
}
PROMPT = np.random.default_rng(3).integers(3, 256, 2 * BLOCK + 7).tolist()


@dataclass(frozen=True)
class Adapters:
    """Adapter name -> what a request brings, and the model with it merged; "" is the base model."""

    base: Path
    requests: dict[str, LoRARequest | None]
    merged: dict[str, Path]


@pytest.fixture(scope="module")
def adapters(qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    requests: dict[str, LoRARequest | None] = {"": None}
    merged = {"": qwen3}
    for number, name in enumerate(("a", "b"), start=1):
        ours, merged[name] = make_adapter(qwen3, tmp_path_factory.mktemp("adapter"), seed=number)
        requests[name] = LoRARequest(name, number, str(ours))
    return Adapters(qwen3, requests, merged)


@pytest.fixture(scope="module")
def started(adapters: Adapters) -> Iterator[Engine]:
    with engine(adapters.base, make_plan(CATALOGUE), **LORA) as made:
        yield made


def add(
    started: Engine, adapters: Adapters, adapter: str, steering: str, name: str, **more: Any
) -> None:
    params = started.params(
        steer=STEERINGS[steering],
        probes=["pair"],
        decision_id=name,
        logprobs=-1,
        max_tokens=OUTPUT_TOKENS,
        **more,
    )
    started.llm.llm_engine.add_request(
        name, {"prompt_token_ids": PROMPT}, params, lora_request=adapters.requests[adapter]
    )


def reference(folder: Path, steering: str, output: Any) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Log-probabilities of the answer's tokens, and the stream at each layer."""
    tokens = PROMPT + list(output.outputs[0].token_ids)
    run = HookedModel(folder).run(tokens, reference_edits(STEERINGS[steering], len(PROMPT)))
    return run.logprobs_TV[len(PROMPT) - 1 : -1], run.streams


def test_adapters_and_steering_in_one_batch_equal_merged_weights_with_hooks(
    started: Engine, adapters: Adapters
) -> None:
    started.reset_cache()
    started.emissions.clear()
    names = {f"{a}/{s}": (a, s) for a in adapters.merged for s in STEERINGS}
    for name, (adapter, steering) in names.items():
        add(started, adapters, adapter, steering, name)
    outputs = started.drain()
    for name, (adapter, steering) in names.items():
        got_TV = all_logprobs(outputs[name])
        want_TV, streams = reference(adapters.merged[adapter], steering, outputs[name])
        assert np.abs(got_TV - want_TV).max() <= TOLERANCE, name
        for other in set(adapters.merged) - {adapter}:
            wrong_TV, _ = reference(adapters.merged[other], steering, outputs[name])
            assert np.abs(got_TV - wrong_TV).max() >= LEAST_MOVE, (name, other)
        reads = started.reads(name)
        for column, (layer, probe, row) in enumerate(COLUMN_LAYERS):
            want_T = streams[layer] @ CATALOGUE.probes[probe].weights_LD[row]
            for position, read in reads.items():
                assert abs(read[column] - want_T[position]) <= TOLERANCE, (name, layer, position)
    assert len({tuple(each.outputs[0].token_ids) for each in outputs.values()}) >= 6


def test_a_cached_block_serves_its_own_adapter_and_edit_only(
    started: Engine, adapters: Adapters
) -> None:
    started.reset_cache()
    cached = []
    asked = [(a, s) for s in ("all", "plain", "output") for a in adapters.merged]
    for number, (adapter, steering) in enumerate(asked + asked):
        add(started, adapters, adapter, steering, f"cache-{number}")
        output = started.drain()[f"cache-{number}"]
        cached.append(output.num_cached_tokens)
        want_TV, _ = reference(adapters.merged[adapter], steering, output)
        assert np.abs(all_logprobs(output) - want_TV).max() <= TOLERANCE, (adapter, steering)
    first, again = cached[: len(asked)], cached[len(asked) :]
    # Edits of the answer alone leave the prompt's blocks shared with no edit, by each adapter.
    assert first == [0] * 6 + [2 * BLOCK] * 3
    assert again == [2 * BLOCK] * 9


def test_requests_wait_for_adapters_and_for_slots_and_all_come_through(adapters: Adapters) -> None:
    plan = make_plan(CATALOGUE, limits={**WIDE, "max_programs": 1})
    with engine(adapters.base, plan, **(LORA | {"max_loras": 1})) as narrow:
        names = {f"{n}{a}/{s}": (a, s) for n in range(2) for s in STEERINGS for a in ("a", "b")}
        for name, (adapter, steering) in names.items():
            add(narrow, adapters, adapter, steering, name)
        outputs = narrow.drain()
    for name, (adapter, steering) in names.items():
        want_TV, _ = reference(adapters.merged[adapter], steering, outputs[name])
        assert np.abs(all_logprobs(outputs[name]) - want_TV).max() <= TOLERANCE, name


def test_untouched_under_an_adapter_equals_plain_vllm_bit_for_bit(adapters: Adapters) -> None:
    found = []
    for plan in (None, test_untouched.loaded_plan()):
        with engine(adapters.base, plan, **LORA) as made:
            params = made.params(max_tokens=12, logprobs=-1)
            prompt = {"prompt_token_ids": PROMPT}
            found.append(
                [
                    all_logprobs(output)
                    for adapter in adapters.requests.values()
                    for output in made.llm.generate(
                        [prompt], params, use_tqdm=False, lora_request=adapter
                    )
                ]
            )
    assert all(np.array_equal(ours, plain) for plain, ours in zip(*found, strict=True))


@pytest.mark.parametrize("known", [True, False])
def test_every_site_of_wrapped_blocks_passes_the_self_check(
    known: bool, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not known:
        monkeypatch.delitem(LAYOUTS, "Qwen3ForCausalLM")
    with engine(adapters.base, None, worker_cls=HOOKED_WORKER, **LORA) as hooked:
        worker = hooked.core.model_executor.driver_worker.worker
        assert worker.decoder.origin.startswith("table entry" if known else "found by structure")
        sites = worker.hooked_sites()
        wrapped = type(worker.points[1, "attn_heads"].module).__name__
    assert wrapped == "RowParallelLinearWithLoRA"
    assert all({"attn_heads", "mlp_neurons", "resid_mid"} <= set(each) for each in sites.values())
