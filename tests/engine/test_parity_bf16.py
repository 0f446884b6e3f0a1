"""Parity in bfloat16: no further from float32 than twice transformers' own hooks are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.reference.hf_hooks import HookedModel
from tests.support.engines.harness import all_logprobs, engine, make_plan
from tests.support.models.tiny_architectures import make_architecture
from tests.support.parity import operators
from tests.support.parity.steering import (
    CASES,
    CATALOGUE,
    OUTPUT_TOKENS,
    prompt_of,
    reference_edits,
)

pytestmark = [pytest.mark.engine, pytest.mark.full, pytest.mark.timeout(900)]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_bf16_error_is_at_most_twice_that_of_a_hooked_bf16_reference(
    name: str, tmp_path: Path
) -> None:
    make_architecture(tmp_path, name, dtype=torch.bfloat16)
    exact, rounded = HookedModel(tmp_path), HookedModel(tmp_path, torch.bfloat16)
    ours, theirs, moves = [], [], []
    with engine(tmp_path, make_plan(CATALOGUE), dtype="bfloat16") as started:
        for case in CASES:
            params = started.params(
                steer=case.terms, decision_id=case.name, logprobs=-1, max_tokens=OUTPUT_TOKENS
            )
            started.add(case.name, prompt_of(case), params)
        outputs = started.drain()
    for case in CASES:
        tokens = prompt_of(case) + list(outputs[case.name].outputs[0].token_ids)
        edits = reference_edits(case.terms, case.length)
        at = slice(case.length - 1, -1)
        want_TV = exact.run(tokens, edits).logprobs_TV[at]
        ours.append(np.abs(all_logprobs(outputs[case.name]) - want_TV).mean())
        theirs.append(np.abs(rounded.run(tokens, edits).logprobs_TV[at] - want_TV).mean())
        if edits:
            moves.append(np.abs(exact.run(tokens).logprobs_TV[at] - want_TV).mean())
    assert np.mean(ours) <= 2 * np.mean(theirs)
    assert min(moves) > 2 * max(theirs)


def test_bf16_error_of_every_operator_is_at_most_twice_that_of_a_hooked_bf16_reference(
    tmp_path: Path,
) -> None:
    make_architecture(tmp_path, "qwen3", dtype=torch.bfloat16)
    exact, rounded = HookedModel(tmp_path), HookedModel(tmp_path, torch.bfloat16)
    with operators.starting(tmp_path, dtype="bfloat16") as running:
        outputs = operators.answers(running)
    for case in operators.CASES:
        tokens = operators.prompt_of(case) + list(outputs[case.name].outputs[0].token_ids)
        edits = operators.changes(case, tokens)
        at = slice(case.length - 1, -1)
        want_TV = exact.run(tokens, edits).logprobs_TV[at]
        ours = np.abs(all_logprobs(outputs[case.name]) - want_TV).mean()
        theirs = np.abs(rounded.run(tokens, edits).logprobs_TV[at] - want_TV).mean()
        moved = np.abs(exact.run(tokens).logprobs_TV[at] - want_TV).mean()
        assert ours <= 2 * theirs, f"{case.name}: {ours:.5f}, a hooked reference {theirs:.5f}"
        assert moved > 2 * max(ours, theirs), f"{case.name}: unsteered logits would pass"
