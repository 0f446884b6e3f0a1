"""Tiny random models, plans around them, and in-process engines to compare with and without us."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig
from vllm import LLM, SamplingParams
from vllm.v1.engine.output_processor import OutputProcessor

from pilothouse.config import PilothouseConfig, parse_config
from pilothouse.engine import pickup
from pilothouse.engine.launch import SCHEDULER, WORKER, guard_environment
from pilothouse.engine.plan import ModelFacts, Plan
from pilothouse.engine.resolve import resolve_plan
from pilothouse.model.catalogue import Catalogue
from pilothouse.policy.schema import Policy
from pilothouse.record import Record
from pilothouse.sealed import SEALED_KEY, AppliedPolicy, SealedRequest, SteerTerm, seal, seal_key

VOCABULARY = 256
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32,
    "max_position_embeddings": 512,
}  # fmt: skip


def make_model(folder: Path, config: PretrainedConfig, *, seed: int = 0) -> Path:
    """Random weights of an architecture, saved in float32."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    # Wider logits than the usual initialisation, so that greedy answers are not ties.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "norm" not in name:
                parameter.mul_(3.0)
    model.save_pretrained(folder)
    return folder


def make_plan(
    catalogue: Catalogue,
    policies: Sequence[Policy] = (),
    *,
    d_model: int = 64,
    num_layers: int = 4,
    **config: Any,
) -> Plan:
    """A plan for a tiny model with generous limits."""
    raw = {"version": 1, "limits": {"max_norm_ratio": 1e6}} | config
    parsed: PilothouseConfig = parse_config(raw, folder=Path(), origin="test")
    facts = ModelFacts(model_id="tiny", num_layers=num_layers, d_model=d_model)
    return resolve_plan(parsed, catalogue, policies, facts)


@dataclass
class Engine:
    """An in-process engine and the records it sent back, newest last, by decision id."""

    llm: LLM
    plan: Plan | None
    records: dict[str, list[Record]]

    def params(
        self,
        *,
        steer: Sequence[SteerTerm] = (),
        policies: Sequence[str] = (),
        shadow: Sequence[str] = (),
        scores: str = "none",
        probes: Sequence[str] = (),
        decision_id: str = "d",
        **sampling: Any,
    ) -> SamplingParams:
        """Greedy sampling parameters with a valid seal (none for a plain engine)."""
        extra = None
        if self.plan is not None:
            sealed = SealedRequest(
                decision_id=decision_id,
                revision=self.plan.revision,
                steer=tuple(steer),
                policies=tuple(AppliedPolicy(name=n, enforced=True) for n in policies)
                + tuple(AppliedPolicy(name=n, enforced=False) for n in shadow),
                probes=tuple(probes),
                scores=scores,  # type: ignore[arg-type]
            )
            extra = {SEALED_KEY: seal(sealed, seal_key())}
        defaults: dict[str, Any] = {"temperature": 0.0, "max_tokens": 8, "ignore_eos": True}
        return SamplingParams(extra_args=extra, detokenize=False, **(defaults | sampling))

    def run(self, prompts: Sequence[list[int]], params: Any) -> list[Any]:
        """vLLM's outputs for token-id prompts."""
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        return self.llm.generate(requests, params, use_tqdm=False)

    def tokens(self, prompts: Sequence[list[int]], params: Any) -> list[list[int]]:
        """Sampled token ids only."""
        return [list(each.outputs[0].token_ids) for each in self.run(prompts, params)]


@contextmanager
def engine(
    model: Path, plan: Plan | None, *, worker: str = WORKER, **overrides: Any
) -> Iterator[Engine]:
    """An engine in this process; `plan=None` is plain vLLM."""
    settings: dict[str, Any] = {
        "dtype": "float32", "skip_tokenizer_init": True, "enforce_eager": True,
        "max_model_len": 256,
        "distributed_executor_backend": "uni", "enable_prefix_caching": False, "seed": 0,
    }  # fmt: skip
    if plan is not None:
        guard_environment()
        settings |= {
            "worker_cls": worker, "scheduler_cls": SCHEDULER,
            "additional_config": plan.to_additional_config(),
        }  # fmt: skip
    records: dict[str, list[Record]] = {}
    process = OutputProcessor.process_outputs
    pickup.install()
    stop: Callable[[], None] = pickup.subscribe(
        lambda record: records.setdefault(record.decision_id, []).append(record)
    )
    llm = LLM(str(model), **(settings | overrides))
    try:
        yield Engine(llm, plan, records)
    finally:
        stop()
        OutputProcessor.process_outputs = process
        del llm
        gc.collect()


def random_rows(seed: int, layers: int, d_model: int = 64, norm: float = 1.0) -> np.ndarray:
    """Rows of a given length in random directions, float32."""
    rows = np.random.default_rng(seed).normal(size=(layers, d_model))
    return (norm * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
