"""Positions after a token that is sampled: the edit begins with the token that follows it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from pilothouse.engine.scheduler.messages import StepPlan
from pilothouse.term import Positions, SteerTerm
from tests.reference.hf_hooks import HookedChange, HookedModel
from tests.support.engines.harness import all_logprobs, engine, forced_async, make_plan
from tests.support.models.tiny_architectures import make_architecture
from tests.support.parity.operators import CATALOGUE, RESERVED, added

PROMPT = np.random.default_rng(2).integers(3, 249, 17).tolist()
TOKENS = 14
LAYER = 2


@pytest.mark.engine
@pytest.mark.parametrize("span", [None, 1, 3])
@pytest.mark.parametrize("ahead", [False, True], ids=["sync", "async"])
def test_what_follows_a_sampled_token_is_steered(
    ahead: bool, span: int | None, tmp_path: Path
) -> None:
    make_architecture(tmp_path, "qwen3")
    reference = HookedModel(tmp_path)
    mark = reference.generate(PROMPT, TOKENS)[3]
    where = Positions(after=(mark,), span=span)
    term = SteerTerm(vector="v", scale=1.5, on="output", layers=(LAYER,), positions=where)
    plan = make_plan(CATALOGUE, limits={"max_norm_ratio": 1e6}, **RESERVED)
    with forced_async() if ahead else nullcontext(), engine(tmp_path, plan) as started:
        params = started.params(steer=[term], max_tokens=TOKENS, logprobs=-1)
        [output] = started.run([PROMPT], params)
        told = started.closing()
    answer = list(output.outputs[0].token_ids)
    tokens = PROMPT + answer
    assert mark in answer
    marks = [i for i, token in enumerate(tokens) if token == mark and i >= len(PROMPT) - 1]
    held = {
        position
        for i in marks
        for position in range(i + 1, len(tokens) if span is None else i + 1 + span)
        if position < len(tokens) - 1
    }
    changes = [HookedChange(LAYER, lambda h_TD: added_to(h_TD), each, each + 1) for each in held]
    want_TV = reference.run(tokens, changes).logprobs_TV[len(PROMPT) - 1 : -1]
    assert np.abs(all_logprobs(output) - want_TV).max() <= 1e-4
    plain_TV = reference.run(tokens).logprobs_TV[len(PROMPT) - 1 : -1]
    assert np.abs(plain_TV - want_TV).max() >= 0.05
    assert told.steered_tokens == {"v": len(held)}


def added_to(h_TD: np.ndarray) -> np.ndarray:
    """The addition at LAYER, token by token."""
    return np.stack([added(h, 1) for h in h_TD])


@pytest.mark.engine
def test_a_request_that_waits_for_nothing_is_told_to_the_workers_once(tmp_path: Path) -> None:
    make_architecture(tmp_path, "qwen3")
    plan = make_plan(CATALOGUE, limits={"max_norm_ratio": 1e6}, **RESERVED)
    with engine(tmp_path, plan) as started:
        seen: list[StepPlan] = []
        schedule = started.scheduler.schedule

        def watched(*args: object, **kwargs: object) -> object:
            scheduled = schedule(*args, **kwargs)
            seen.append(scheduled.pilothouse_step)
            return scheduled

        started.scheduler.schedule = watched
        never = SteerTerm(vector="v", scale=1.0, positions=Positions(after=(255,)))
        started.run([PROMPT], started.params(steer=[never], max_tokens=6))
        assert sum(bool(step.steering) for step in seen) == 1
