"""Plans around tiny models, and in-process engines to compare with and without us."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.v1.engine.output_processor import OutputProcessor

from pilothouse.artifacts.catalog import Catalog
from pilothouse.config import PilothouseConfig, parse_config
from pilothouse.engine.launch import SCHEDULER, WORKER, guard_environment
from pilothouse.engine.plan.build import resolve_plan
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.spec import ModelFacts
from pilothouse.engine.plan.turn_markers import TurnMarkers
from pilothouse.engine.scheduler.messages import EMISSIONS_ATTRIBUTE, Emissions
from pilothouse.engine.scheduler.spec_decode import accepted_only, verify
from pilothouse.engine.vllm import output_processor
from pilothouse.policy.schema import Policy
from pilothouse.record import Record
from pilothouse.signed_request import (
    SIGNED_REQUEST_KEY,
    AppliedPolicy,
    SignedRequest,
    seal,
    signing_key,
)
from pilothouse.term import SteerTerm

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_PLUGINS": "",
}
KV_BYTES = 32 << 20
BLOCK = 32
"""The CPU attention kernels take multiples of 32."""


def make_plan(
    catalog: Catalog,
    policies: Sequence[Policy] = (),
    *,
    d_model: int = 64,
    num_layers: int = 4,
    turns: TurnMarkers | None = None,
    **config: Any,
) -> Plan:
    """A plan for a tiny model with generous limits; `config` replaces whole sections."""
    raw = {"version": 1, "limits": {"max_norm_ratio": 1e6}} | config
    parsed: PilothouseConfig = parse_config(raw, folder=Path(), origin="test")
    facts = ModelFacts(model_id="tiny", num_layers=num_layers, d_model=d_model)
    return resolve_plan(parsed, catalog, policies, facts, turns=turns)


@dataclass(frozen=True)
class Sent:
    """What left the engine core for one request in one step, records taken off."""

    request_id: str
    token_ids: tuple[int, ...]
    num_logprobs: int
    finish_reason: str | None
    stop_reason: object


@dataclass
class Engine:
    """An in-process engine with everything that came out of it.

    `records` by decision id, newest last; `sent` every output of the core, before the API
    process's own handling; `emissions` every step's reads.
    """

    llm: LLM
    plan: Plan | None
    records: dict[str, list[Record]] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    emissions: list[Emissions] = field(default_factory=list)

    @property
    def core(self) -> Any:
        """vLLM's engine core object."""
        return self.llm.llm_engine.engine_core.engine_core

    @property
    def scheduler(self) -> Any:
        """vLLM's scheduler object."""
        return self.core.scheduler

    def sealed(
        self,
        *,
        steer: Sequence[SteerTerm] = (),
        policies: Sequence[str] = (),
        shadow: Sequence[str] = (),
        scores: str = "none",
        probes: Sequence[str] = (),
        decision_id: str = "d",
    ) -> str:
        """A valid seal over a request."""
        assert self.plan is not None
        request = SignedRequest(
            decision_id=decision_id,
            revision=self.plan.revision,
            steer=tuple(steer),
            policies=tuple(AppliedPolicy(name=n, enforced=True) for n in policies)
            + tuple(AppliedPolicy(name=n, enforced=False) for n in shadow),
            probes=tuple(probes),
            scores=scores,  # type: ignore[arg-type]
        )
        return seal(request, signing_key())

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
            text = self.sealed(
                steer=steer,
                policies=policies,
                shadow=shadow,
                scores=scores,
                probes=probes,
                decision_id=decision_id,
            )
            extra = {SIGNED_REQUEST_KEY: text}
        defaults: dict[str, Any] = {
            "temperature": 0.0,
            "max_tokens": 8,
            "ignore_eos": True,
            "detokenize": False,
        }
        return SamplingParams(extra_args=extra, **(defaults | sampling))

    def run(self, prompts: Sequence[Sequence[int]], params: Any, **extra: Any) -> list[Any]:
        """vLLM's outputs for token-id prompts; `extra` goes on every prompt (cache_salt)."""
        requests = [{"prompt_token_ids": list(prompt)} | extra for prompt in prompts]
        return self.llm.generate(requests, params, use_tqdm=False)

    def tokens(self, prompts: Sequence[Sequence[int]], params: Any) -> list[list[int]]:
        """Sampled token ids only."""
        return [list(each.outputs[0].token_ids) for each in self.run(prompts, params)]

    def add(self, request_id: str, prompt: Sequence[int], params: SamplingParams) -> None:
        """Queue a request for `step`."""
        self.llm.llm_engine.add_request(request_id, {"prompt_token_ids": list(prompt)}, params)

    def step(self) -> list[Any]:
        """One engine step; what the API process would hand on."""
        return self.llm.llm_engine.step()

    def drain(self, each_step: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Step until nothing is left; the last output of each request by its id."""
        last: dict[str, Any] = {}
        while self.llm.llm_engine.has_unfinished_requests():
            last.update({output.request_id: output for output in self.step()})
            each_step()
        return last

    def abort(self, request_id: str) -> None:
        """As a client that goes away."""
        self.llm.llm_engine.abort_request([request_id])

    def reset_cache(self) -> None:
        """Forget all prefix-cache blocks."""
        assert self.llm.reset_prefix_cache()

    def sent_tokens(self, request_id: str) -> list[int]:
        """All tokens that left the core for a request, whose id vLLM may have lengthened."""
        return [
            token
            for sent in self.sent
            if _is_of(sent.request_id, request_id)
            for token in sent.token_ids
        ]

    def reads(self, request_id: str) -> dict[int, np.ndarray]:
        """Read values by position, the first time that each was fed, of a request."""
        found: dict[int, np.ndarray] = {}
        for step in self.emissions:
            first = 0
            for name, start, count in zip(step.request_ids, step.starts, step.counts, strict=True):
                if _is_of(name, request_id):
                    for i in range(count):
                        found.setdefault(start + i, step.scores_TE[first + i])
                first += count
        return found

    def closing(self, decision_id: str = "d") -> Record:
        """The newest closing record of a decision."""
        return [each for each in self.records[decision_id] if each.closing][-1]


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a while."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def engine(
    model: Path, plan: Plan | None, *, worker: str = WORKER, **overrides: Any
) -> Iterator[Engine]:
    """An engine in this process; `plan=None` is plain vLLM."""
    settings: dict[str, Any] = {
        "dtype": "float32",
        "skip_tokenizer_init": True,
        "enforce_eager": True,
        "max_model_len": 256,
        "distributed_executor_backend": "uni",
        "seed": 0,
        "enable_prefix_caching": False,
        "max_logprobs": -1,
        "kv_cache_memory_bytes": KV_BYTES,
        "block_size": BLOCK,
    }
    with environment(ENVIRONMENT), _watched_outputs() as listeners:
        if plan is not None:
            guard_environment()
            settings |= {
                "worker_cls": worker,
                "scheduler_cls": SCHEDULER,
                "additional_config": plan.to_additional_config(),
            }
        torch.set_num_threads(1)
        made = Engine(LLM(str(model), **(settings | overrides)), plan)
        listeners.append(made.sent.append)
        stop = output_processor.subscribe(
            lambda record: made.records.setdefault(record.decision_id, []).append(record)
        )
        if plan is not None:
            _keep_emissions(made)
        try:
            yield made
        finally:
            stop()
            made.llm.llm_engine.engine_core.shutdown()
            del made.llm
            gc.collect()
            cleanup_dist_env_and_memory()


def _keep_emissions(made: Engine) -> None:
    """Keep what each step read of the tokens that its requests have kept."""
    scheduler = made.scheduler
    update = scheduler.update_from_output

    def update_from_output(scheduler_output: Any, model_runner_output: Any) -> Any:
        emissions = getattr(model_runner_output, EMISSIONS_ATTRIBUTE, None)
        if emissions is not None:
            # Before vLLM appends what was sampled: drafts are verified against what it had.
            verified = verify(
                scheduler_output,
                model_runner_output,
                scheduler.requests,
                scheduler.max_model_len,
            )
            made.emissions.append(accepted_only(emissions, verified))
        return update(scheduler_output, model_runner_output)

    scheduler.update_from_output = update_from_output


@contextmanager
def _watched_outputs() -> Iterator[list[Callable[[Sent], None]]]:
    """Pick records up, and call listeners with each output as it left the core."""
    listeners: list[Callable[[Sent], None]] = []
    before = OutputProcessor.process_outputs
    output_processor.install()
    picked_up = OutputProcessor.process_outputs

    def process_outputs(self: Any, outputs: Any, *args: Any, **kwargs: Any) -> Any:
        for output in outputs:
            for listen in listeners:
                listen(_sent(output))
        return picked_up(self, outputs, *args, **kwargs)

    OutputProcessor.process_outputs = process_outputs
    try:
        yield listeners
    finally:
        OutputProcessor.process_outputs = before


def _is_of(internal_id: str, request_id: str) -> bool:
    """vLLM makes ids unique by a suffix."""
    return internal_id == request_id or internal_id.startswith(f"{request_id}-")


def _sent(output: Any) -> Sent:
    logprobs = output.new_logprobs
    count = 0 if logprobs is None else len(logprobs.logprob_token_ids)
    reason = None if output.finish_reason is None else str(output.finish_reason)
    return Sent(output.request_id, tuple(output.new_token_ids), count, reason, output.stop_reason)


def all_logprobs(output: Any, index: int = 0) -> np.ndarray:
    """[tokens, vocabulary] of a choice that asked for every logprob (`logprobs=-1`)."""
    rows = output.outputs[index].logprobs
    return np.array([[row[token].logprob for token in sorted(row)] for row in rows])


def random_rows(seed: int, layers: int, d_model: int = 64, norm: float = 1.0) -> np.ndarray:
    """Rows of a given length in random directions, float32."""
    rows = np.random.default_rng(seed).normal(size=(layers, d_model))
    return (norm * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@contextmanager
def forced_async() -> Iterator[None]:
    """Take off the CPU platform's restriction, so that engines schedule one step ahead."""
    from vllm.platforms.cpu import CpuPlatform

    checked = CpuPlatform.check_and_update_config.__func__

    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        checked(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)
    try:
        yield
    finally:
        CpuPlatform.check_and_update_config = classmethod(checked)
