"""Policies that steer with one program at once: the strongest counts, at every position.

Every answer is compared with transformers' own model, edited position by position as the oracle
says of the rules that fired.

Shape suffixes: T output tokens, V vocabulary, L layers, D hidden size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilothouse.artifacts.catalog import Catalog
from pilothouse.artifacts.vector import build_vector
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.scheduler.messages import PolicySpan
from pilothouse.record import Record
from pilothouse.term import SteerTerm
from tests.reference.hf_hooks import HookedEdit, HookedModel
from tests.reference.policy_steering import strength_at
from tests.support.engines.catalogs import policy, probe, readout, vector
from tests.support.engines.drafters import KNOWING, knowing, watch_drafts
from tests.support.engines.harness import (
    BLOCK,
    Engine,
    all_logprobs,
    engine,
    forced_async,
    make_plan,
    random_rows,
)

pytestmark = pytest.mark.engine

PROMPT = np.random.default_rng(11).integers(3, 256, BLOCK + 9).tolist()
ANSWER_TOKENS = 40
LAYERS = (1, 2)
V = vector("v", LAYERS, seed=3, norm=3.0)
ALWAYS = "x >= 0.000001"
SOMETIMES = "x >= 0.5"
RULES: dict[str, tuple[str, float, int, str, str]] = {
    "before": ("v", 1.0, 8, "p0", ALWAYS),
    "two": ("v", 2.0, 8, "p0", ALWAYS),
    "after": ("v", 1.0, 8, "p0", ALWAYS),
    "minus": ("v", -2.0, 8, "p0", ALWAYS),
    "alias": ("alias", 3.0, 8, "p0", ALWAYS),
    "long": ("v", 1.0, 9, "p1", SOMETIMES),
    "short": ("v", 2.0, 4, "p2", SOMETIMES),
    "pull": ("v", -2.0, 6, "p3", SOMETIMES),
}
"""Policy -> vector, strength, tokens to hold, probe and condition of its one rule, as loaded."""
OVERLAPS = (
    ("long", "short"),
    ("long", "pull"),
    ("short", "pull"),
    ("long", "short", "pull"),
    ("before", "short"),
    ("before", "pull", "short"),
    (),
)


def plan() -> Plan:
    alias = build_vector(
        "alias",
        model_id="tiny",
        layers=V.layers,
        directions_LD=V.directions_LD,
        residual_norms_L=V.residual_norms_L,
        created_by="tests",
    )
    probes = {
        f"p{i}": probe(
            f"p{i}", {0: 8.0 * random_rows(20 + i, 1)[0]}, {"now": readout("output")}, bias=2.0
        )
        for i in range(4)
    }
    policies = [
        policy(
            name,
            [
                {
                    "id": "r",
                    "phase": "output",
                    "when": when,
                    "then": {
                        "action": "steer",
                        "vector": source,
                        "scale": scale,
                        "hold_tokens": hold,
                    },
                }
            ],
            {"x": f"{read}/now"},
        )
        for name, (source, scale, hold, read, when) in RULES.items()
    ]
    return make_plan(Catalog({"v": V, "alias": alias}, probes), policies)


@dataclass
class SteeringLog:
    """An engine, and what its rules asked for, by request."""

    engine: Engine
    told: dict[str, list[PolicySpan]] = field(default_factory=lambda: defaultdict(list))
    hashes: dict[str, list[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        orders = self.engine.scheduler._steering
        steer = orders.steer

        def log(request_state: Any, request_id: str, order: Any, start: int) -> None:
            stop = start + order.hold_tokens
            self.told[request_state.signed.decision_id].append(
                PolicySpan(request_id, order.target, start, stop, order.coefficient, order.rank)
            )
            steer(request_state, request_id, order, start)

        orders.steer = log


@dataclass(frozen=True)
class Answer:
    """One answer, the spans of the rules that fired, the keys of its blocks."""

    tokens: list[int]
    logprobs_TV: np.ndarray
    told: list[PolicySpan]
    hashes: list[bytes]
    closing: Record


def ask(log: SteeringLog, asked: Sequence[tuple[str, ...]], *steer: SteerTerm) -> list[Answer]:
    """Requests under these policies, all at once, on an empty cache."""
    started = log.engine
    started.reset_cache()
    log.told.clear()
    log.hashes.clear()
    names = [f"{i}-{'+'.join(each)}" for i, each in enumerate(asked)]
    for name, policies in zip(names, asked, strict=True):
        params = started.params(
            policies=policies,
            steer=steer,
            decision_id=name,
            logprobs=-1,
            max_tokens=ANSWER_TOKENS,
        )
        started.add(name, PROMPT, params)
    outputs = started.drain(lambda: _note_hashes(log))
    return [
        Answer(
            list(outputs[name].outputs[0].token_ids),
            all_logprobs(outputs[name]),
            list(log.told[name]),
            log.hashes[name],
            started.closing(name),
        )
        for name in names
    ]


def _note_hashes(log: SteeringLog) -> None:
    for request_state in log.engine.scheduler._request_states.values():
        log.hashes[request_state.signed.decision_id] = list(request_state.request.block_hashes)


def edits_of(told: Sequence[PolicySpan], positions: range) -> list[HookedEdit]:
    return [
        HookedEdit(layer, strength * row_D, position, position + 1)
        for position in positions
        for strength in [strength_at(position, told)]
        if strength
        for layer, row_D in zip(V.layers, V.directions_LD, strict=True)
    ]


def check_against_transformers(oracle: HookedModel, answer: Answer) -> None:
    """Every token's log-probabilities, and how many were steered."""
    tokens, first = PROMPT + answer.tokens, len(PROMPT)
    edits = edits_of(answer.told, range(first, len(tokens)))
    want_TV = oracle.run(tokens, edits).logprobs_TV[first - 1 : -1]
    assert np.abs(answer.logprobs_TV - want_TV).max() <= 1e-4
    fed = range(len(tokens) - 1)
    steered = sum(strength_at(position, answer.told) != 0.0 for position in fed)
    assert answer.closing.steered_tokens == ({"v": steered} if steered else {})


@pytest.fixture(scope="module")
def oracle(qwen3: Path) -> HookedModel:
    return HookedModel(qwen3)


ALONE = (
    *OVERLAPS,
    ("two",),
    ("minus",),
    ("before",),
    ("before", "two"),
    ("two", "after"),
    ("two", "minus"),
    ("alias", "two"),
)
ASKED_TOO = ("before", "two", "client")


@pytest.fixture(scope="module")
def answers(qwen3: Path) -> dict[tuple[str, ...], Answer]:
    """Each set of policies alone, with room for everything; one of them beside a client's terms."""
    asked = SteerTerm(vector="v", scale=0.5, on="output")
    terms = (asked, asked.model_copy(update={"layers": (2,)}))
    with engine(qwen3, plan(), enable_prefix_caching=True) as started:
        log = SteeringLog(started)
        found = {policies: ask(log, [policies])[0] for policies in ALONE}
        return found | {ASKED_TOO: ask(log, [ASKED_TOO[:2]], *terms)[0]}


def test_two_then_one_and_one_then_two_in_one_step_are_two_alone(
    answers: dict[tuple[str, ...], Answer],
) -> None:
    alone, weak, plain = answers["two",], answers["before",], answers[()]
    for each in (answers["before", "two"], answers["two", "after"]):
        assert each.told[0].start == each.told[1].start, "both fire in one step"
        assert each.tokens == alone.tokens
        assert np.array_equal(each.logprobs_TV, alone.logprobs_TV)
        assert each.closing.steered_tokens == alone.closing.steered_tokens
        assert each.hashes == alone.hashes, "the cache knows what was done, not who asked for it"
    for other in (weak, plain):
        assert np.abs(other.logprobs_TV - alone.logprobs_TV)[2:4].max() >= 0.05
        assert other.hashes[0] == alone.hashes[0], "the prompt's blocks are untouched"
        assert other.hashes[1] != alone.hashes[1]


def test_of_equal_strengths_the_first_policy_by_name_decides_the_sign(
    answers: dict[tuple[str, ...], Answer],
) -> None:
    both, minus, plus = answers["two", "minus"], answers["minus",], answers["two",]
    assert both.told[0].coefficient == 2.0, "the other is loaded first and told first"
    assert both.tokens == minus.tokens
    assert np.array_equal(both.logprobs_TV, minus.logprobs_TV)
    assert np.abs(plus.logprobs_TV - minus.logprobs_TV)[2:4].max() >= 0.05


@pytest.mark.parametrize("policies", ALONE[:-1], ids="+".join)
def test_every_token_is_steered_as_the_oracle_says(
    answers: dict[tuple[str, ...], Answer], oracle: HookedModel, policies: tuple[str, ...]
) -> None:
    check_against_transformers(oracle, answers[policies])


def test_spans_of_the_answers_begin_apart_overlap_and_end(
    answers: dict[tuple[str, ...], Answer],
) -> None:
    counts = set()
    for policies in OVERLAPS[:4]:
        told = answers[policies].told
        held = [
            len({each.rank for each in told if each.start <= position < each.stop})
            for position in range(len(PROMPT) + 2, len(PROMPT) + ANSWER_TOKENS)
        ]
        assert max(held) >= 2, policies
        assert len({each.start for each in told}) >= 5, policies
        counts |= set(held)
    assert counts >= {1, 2}


def test_a_token_that_request_and_policies_steer_counts_once_by_name(
    answers: dict[tuple[str, ...], Answer],
) -> None:
    fed = ANSWER_TOKENS - 1
    assert answers[ASKED_TOO].closing.steered_tokens == {"v": fed}
    named = answers["alias", "two"]
    assert named.closing.steered_tokens == {"alias": fed - 1}, "who won is who steered"


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_who_is_preempted_and_fed_again_gets_at_each_position_what_it_had(
    qwen3: Path, oracle: HookedModel, mode: str
) -> None:
    scheduling = forced_async() if mode == "async" else nullcontext()
    small: dict[str, Any] = {"num_gpu_blocks_override": 9, "enable_prefix_caching": True}
    with scheduling, engine(qwen3, plan(), **small) as started:
        log = SteeringLog(started)
        for answer in ask(log, OVERLAPS):
            check_against_transformers(oracle, answer)
        again = [
            name
            for step in started.emissions
            for name, start in zip(step.request_ids, step.starts, strict=True)
            if start <= len(PROMPT)
        ]
        assert len(again) > 2 * len(OVERLAPS), "somebody must be preempted"


def test_with_drafts_a_rule_steers_what_was_not_computed_yet(
    qwen3: Path, oracle: HookedModel, answers: dict[tuple[str, ...], Answer]
) -> None:
    known = [PROMPT + answers[policies].tokens for policies in OVERLAPS]
    with knowing(known), engine(qwen3, plan(), speculative_config=KNOWING) as started:
        seen = watch_drafts(started)
        log = SteeringLog(started)
        for answer in ask(log, OVERLAPS):
            check_against_transformers(oracle, answer)
            starts = [each.start for each in answer.told]
            assert all(one <= other for one, other in pairwise(starts))
        assert sum(count for _, count in seen) >= 5
        assert any(count < drafts for drafts, count in seen)
