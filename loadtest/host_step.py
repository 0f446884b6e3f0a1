"""Host work of ours per step, without a model: the real schedulers, fed made-up scores.

    python loadtest/host_step.py [--requests 256] [--steps 200] [--job NAME] [--out FILE]
    python loadtest/host_step.py --job NAME --rounds 10 --steps 100 --out FILE

The second form measures one job again and again, for an interval.

vLLM's own scheduler and ours run the same decode steps in turn, in one process. The difference of
their median steps is what plan, fold, decide and records cost there. The worker's part, and what
the messages between the two processes cost to pickle, are timed beside it. Times are processor
time of the one thread that works, so that other work on the machine does not count.

Shape suffixes: B requests, T tokens of the step, E read columns.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pickle
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import numpy as np
import torch
import yaml
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from benchmodel import Shape, ensure_model
from environment import environment
from pilothouse.artifacts.catalog import load_catalog
from pilothouse.config import load_config
from pilothouse.engine.launch import guard_environment
from pilothouse.engine.plan.build import resolve_plan
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.spec import ModelFacts
from pilothouse.engine.scheduler.messages import EMISSIONS_ATTRIBUTE, STEP_ATTRIBUTE, Emissions
from pilothouse.engine.scheduler.output_filter import OutputFilter
from pilothouse.engine.scheduler.policy_engine import PolicyEngine
from pilothouse.engine.scheduler.request_state import RequestState
from pilothouse.engine.scheduler.scheduler import Guarded, GuardedSyncScheduler
from pilothouse.engine.scheduler.score_table import ScoreTable
from pilothouse.engine.worker.batch_state import SteeringState
from pilothouse.engine.worker.buffers import TapBuffers
from pilothouse.engine.worker.tap_manager import Readback
from pilothouse.policy.loader import load_policies
from pilothouse.signed_request import (
    SIGNED_REQUEST_KEY,
    AppliedPolicy,
    SignedRequest,
    seal,
    signing_key,
)
from pilothouse.term import SteerTerm
from scenario import EDIT_LAYER, PROBE_LAYER, Size, write_policy, write_probes, write_vectors

HERE = Path(__file__).resolve().parent
GOAL_US = 1000.0
BLOCK_SIZE = 16
NUM_BLOCKS = 1 << 16
PROMPT_TOKENS = 32
WARM_UP_STEPS = 20
MICRO = 1e6
TIMED: tuple[tuple[type, str], ...] = (
    (ScoreTable, "fold"),
    (PolicyEngine, "_evaluate"),
    (PolicyEngine, "_keep_token_scores"),
    (PolicyEngine, "cleared"),
    (Guarded, "_steer"),
    (OutputFilter, "apply"),
    (OutputFilter, "_hold_back"),
    (RequestState, "record"),
)
"""What the breakdown names; `apply` has `_hold_back` within it, and that has `cleared`."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is loaded and what every request asks for."""

    name: str
    probes: int = 0
    action: str = "log"
    steered: bool = False
    scores: str = "none"


JOBS = (
    Job("nothing loaded"),
    Job("8 probes, policy logs", probes=8),
    Job("8 probes, policy may block", probes=8, action="block"),
    Job("a program each", steered=True),
    Job("all: 8 probes, may block, a program each", probes=8, action="block", steered=True),
    Job("all, and clients see scores", probes=8, action="block", steered=True, scores="summary"),
)


class Rig:
    """A scheduler with its requests, stepped by hand."""

    def __init__(self, kind: type, model: Path, plan: Plan | None, requests: int) -> None:
        extra = {} if plan is None else {"additional_config": plan.to_additional_config()}
        config = EngineArgs(
            model=str(model),
            dtype="float32",
            max_model_len=2048,
            max_num_seqs=requests,
            max_num_batched_tokens=8192,
            **extra,
        ).create_engine_config()
        config.cache_config.num_gpu_blocks = NUM_BLOCKS
        spec = FullAttentionSpec(
            block_size=BLOCK_SIZE, num_kv_heads=1, head_size=1, dtype=torch.float32
        )
        blocks = KVCacheConfig(
            num_blocks=NUM_BLOCKS,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        )
        init_none_hash(sha256)
        self.plan = plan
        self.scheduler = kind(
            vllm_config=config,
            kv_cache_config=blocks,
            block_size=BLOCK_SIZE,
            structured_output_manager=StructuredOutputManager(config),
            log_stats=True,
        )
        self._hasher = get_request_block_hasher(BLOCK_SIZE, sha256)
        self._draw = np.random.default_rng(0)
        self.emissions: Emissions | None = None
        self.step_plan: Any = None
        self.first_plan: Any = None

    def admit(self, index: int, extra_args: dict[str, Any] | None) -> float:
        """Add a request; seconds."""
        params = SamplingParams(
            temperature=0.0, max_tokens=1900, ignore_eos=True, extra_args=extra_args
        )
        prompt = self._draw.integers(10, 8000, PROMPT_TOKENS).tolist()
        began = time.thread_time()
        self.scheduler.add_request(
            Request(f"r{index:04d}", prompt, params, None, block_hasher=self._hasher)
        )
        return time.thread_time() - began

    def step(self) -> float:
        """One step; seconds spent in `schedule` and `update_from_output`."""
        began = time.thread_time()
        scheduled = self.scheduler.schedule()
        middle = time.thread_time()
        output = self._model_output(scheduled)
        again = time.thread_time()
        self.scheduler.update_from_output(scheduled, output)
        return time.thread_time() - again + middle - began

    def _model_output(self, scheduled: Any) -> ModelRunnerOutput:
        ids = list(scheduled.num_scheduled_tokens)
        counts = tuple(scheduled.num_scheduled_tokens[each] for each in ids)
        requests = [self.scheduler.requests[each] for each in ids]
        sampled = [
            [int(token)] if request.num_computed_tokens >= request.num_tokens else []
            for request, token in zip(
                requests, self._draw.integers(10, 8000, len(ids)), strict=True
            )
        ]
        output = ModelRunnerOutput(ids, {each: i for i, each in enumerate(ids)}, sampled)
        self.step_plan = getattr(scheduled, STEP_ATTRIBUTE, None)
        if self.plan is not None and self.step_plan.wants_emissions:
            starts = tuple(
                request.num_computed_tokens - count
                for request, count in zip(requests, counts, strict=True)
            )
            shape = (sum(counts), self.plan.body.num_columns)
            scores_TE = self._draw.normal(size=shape).astype(np.float32)
            self.emissions = Emissions(tuple(ids), starts, counts, scores_TE)
            setattr(output, EMISSIONS_ATTRIBUTE, self.emissions)
        return output


def make_plan(job: Job, folder: Path, model: Path, shape: Shape, requests: int) -> Plan:
    """The plan of a job, by way of artefacts and a configuration file."""
    size = Size(model.name, shape.hidden_size, shape.num_hidden_layers)
    folder.mkdir(parents=True)
    said: dict[str, Any] = {"version": 1, "limits": {"max_programs": max(64, requests)}}
    if job.probes:
        said["probes"] = write_probes(folder, size, job.probes, [PROBE_LAYER])
        said["policies"] = [write_policy(folder, list(said["probes"]), job.action)]
    if job.steered:
        said["vectors"] = write_vectors(folder, size, requests, [EDIT_LAYER])
    path = folder / "pilothouse.yaml"
    path.write_text(yaml.safe_dump(said), encoding="utf-8")
    config = load_config(path)
    facts = ModelFacts(
        model_id=model.name, num_layers=shape.num_hidden_layers, d_model=shape.hidden_size
    )
    return resolve_plan(config, load_catalog(config), load_policies(config.policies), facts)


def sealed(plan: Plan, job: Job, index: int) -> dict[str, Any]:
    """What the gate would put on request number `index`."""
    names = list(plan.body.vectors)
    request = SignedRequest(
        decision_id=f"d{index}",
        revision=plan.revision,
        steer=(SteerTerm(vector=names[index], scale=0.5, on="all"),) if job.steered else (),
        policies=tuple(AppliedPolicy(name=each.name, enforced=True) for each in plan.policies),
        scores=job.scores,  # type: ignore[arg-type]
    )
    return {SIGNED_REQUEST_KEY: seal(request, signing_key())}


def open_rigs(
    job: Job, model: Path, shape: Shape, requests: int
) -> tuple[Plan, Rig, Rig, dict[str, float]]:
    """A job's plan, vLLM's scheduler and ours in steady decode, and what it took to get there."""
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(job, Path(folder) / "case", model, shape, requests)
    plain = Rig(Scheduler, model, None, requests)
    ours = Rig(GuardedSyncScheduler, model, plan, requests)
    admit_plain = [plain.admit(index, None) for index in range(requests)]
    admit_ours = [ours.admit(index, sealed(plan, job, index)) for index in range(requests)]
    first_plain, first_ours = plain.step(), ours.step()
    ours.first_plan = ours.step_plan
    for _ in range(WARM_UP_STEPS):
        plain.step(), ours.step()
    start = {
        "first_step_us": _us(first_ours - first_plain),
        "admission_us_per_request": _us(
            statistics.median(admit_ours) - statistics.median(admit_plain)
        ),
    }
    return plan, plain, ours, start


def measure_round(plan: Plan, plain: Rig, ours: Rig, steps: int) -> dict[str, float]:
    """What decode steps cost in this round, in microseconds."""
    both = [(plain.step(), ours.step()) for _ in range(steps)]
    extra = [mine - theirs for theirs, mine in both]
    worker = time_worker(plan, ours, ours.first_plan, steps)
    messages = time_messages(ours, steps)
    scheduler = statistics.median(extra)
    return {
        "plain_step_us": _us(statistics.median(each for each, _ in both)),
        "scheduler_us": _us(scheduler),
        "scheduler_quietest_us": _us(min(mine for _, mine in both) - min(p for p, _ in both)),
        "worker_us": _us(worker),
        "messages_us": _us(messages),
        "total_us": _us(scheduler + worker + messages),
    }


def measure(job: Job, model: Path, shape: Shape, requests: int, steps: int) -> dict[str, Any]:
    """All figures of a job, in microseconds."""
    plan, plain, ours, start = open_rigs(job, model, shape, requests)
    found = measure_round(plan, plain, ours, steps)
    return found | start | {"breakdown_us": breakdown(ours, steps)}


def measure_rounds(
    job: Job, model: Path, shape: Shape, requests: int, steps: int, rounds: int
) -> dict[str, Any]:
    """A job's figures round by round, in microseconds."""
    plan, plain, ours, start = open_rigs(job, model, shape, requests)
    found = [measure_round(plan, plain, ours, steps) for _ in range(rounds)]
    return start | {"rounds": found}


def time_worker(plan: Plan, rig: Rig, first: Any, steps: int) -> float:
    """Median seconds of the worker's host part in a decode step: buffers filled, scores taken."""
    ids = list(rig.scheduler.requests)
    parts = {tap.tap: slice(0, tap.width) for tap in plan.body.taps}
    buffers = TapBuffers.allocate(plan, parts, max_tokens=8192, device=torch.device("cpu"))
    state = SteeringState(buffers, len(plan.body.policy_targets))
    snapshot = Readback(buffers.scores_NE)
    state.apply(first, set())
    starts_B = np.full(len(ids), PROMPT_TOKENS + 10, np.int64)
    counts_B = np.ones(len(ids), np.int64)
    taken = []
    for _ in range(steps):
        began = time.thread_time()
        state.apply(rig.step_plan, set())
        state.write(ids, starts_B, counts_B)
        snapshot.begin(ids, starts_B, counts_B)
        if rig.step_plan.wants_emissions:
            snapshot.take(None)()
        taken.append(time.thread_time() - began)
    return statistics.median(taken)


def time_messages(rig: Rig, steps: int) -> float:
    """Median seconds to pickle and unpickle what we add to a step's two messages."""
    taken = []
    for _ in range(steps):
        began = time.thread_time()
        pickle.loads(pickle.dumps(rig.step_plan, pickle.HIGHEST_PROTOCOL))
        if rig.emissions is not None:
            pickle.loads(pickle.dumps(rig.emissions, pickle.HIGHEST_PROTOCOL))
        taken.append(time.thread_time() - began)
    return statistics.median(taken)


def breakdown(rig: Rig, steps: int) -> dict[str, float]:
    """Mean microseconds per step in the parts of `TIMED`, timers included."""
    spent: dict[str, float] = defaultdict(float)
    with _timers(spent):
        for _ in range(steps):
            rig.step()
    parts = sorted(spent.items(), key=lambda part: -part[1])
    return {name: _us(seconds / steps) for name, seconds in parts}


@contextmanager
def _timers(spent: dict[str, float]) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name in TIMED:
            label = f"{owner.__name__}.{name}"
            timed = _timed(getattr(owner, name), label, spent)
            stack.enter_context(mock.patch.object(owner, name, timed))
        yield


def _timed(call: Callable[..., Any], label: str, spent: dict[str, float]) -> Callable[..., Any]:
    @functools.wraps(call)
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        try:
            return call(*args, **kwargs)
        finally:
            spent[label] += time.thread_time() - began

    return timed


def _us(seconds: float) -> float:
    return round(seconds * MICRO, 1)


def told(job: Job, found: dict[str, Any]) -> str:
    """A job's figures as lines of text."""
    lines = [
        f"{job.name}: {found['total_us']:.0f} us a step "
        f"({'under' if found['total_us'] < GOAL_US else 'OVER'} the goal of {GOAL_US:.0f})",
        f"    scheduler {found['scheduler_us']:.0f} (vLLM's own {found['plain_step_us']:.0f}), "
        f"worker {found['worker_us']:.0f}, messages {found['messages_us']:.0f}; first step "
        f"{found['first_step_us']:.0f}, admission {found['admission_us_per_request']:.0f} each",
    ]
    parts = [f"{name} {value:.0f}" for name, value in found["breakdown_us"].items()]
    return "\n".join([*lines, "    of which, inclusive: " + ", ".join(parts)])


def main(words: Sequence[str]) -> int:
    """Measure every job; 1 where one is over the goal."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, help="a JSON file for all figures")
    parser.add_argument(
        "--job", choices=[each.name for each in JOBS], help="only this one (default: all)"
    )
    parser.add_argument("--rounds", type=int, help="measure --job so often, for an interval")
    parser.add_argument(
        "--work", type=Path, default=HERE.parent / "build" / "loadtest", help="where the model lies"
    )
    args = parser.parse_args(words)
    shape = Shape()
    model = ensure_model(args.work.resolve(), shape)
    guard_environment()
    jobs = [each for each in JOBS if args.job in (None, each.name)]
    results: dict[str, dict[str, Any]] = {}
    for job in jobs:
        if args.rounds is not None:
            results[job.name] = measure_rounds(
                job, model, shape, args.requests, args.steps, args.rounds
            )
            totals = [each["total_us"] for each in results[job.name]["rounds"]]
            results[job.name]["total_us"] = statistics.median(totals)
            print(f"{job.name}: {totals} us a step", flush=True)
            continue
        results[job.name] = measure(job, model, shape, args.requests, args.steps)
        print(told(job, results[job.name]), flush=True)
    if args.out is not None:
        facts = {"environment": environment(), "requests": args.requests, "steps": args.steps}
        args.out.write_text(json.dumps(facts | {"jobs": results}, indent=1) + "\n", "utf-8")
    return int(any(each["total_us"] >= GOAL_US for each in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
