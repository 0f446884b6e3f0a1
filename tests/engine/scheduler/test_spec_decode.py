"""Speculative decoding changes how many steps an answer takes, and nothing else.

The same requests are asked of an engine without drafts and of engines with them: a drafter that
knows the answers and spoils some (`knowing`), vLLM's own n-grams, and a draft model.
"""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilothouse.engine.launch import settle_speculation
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.scheduler.messages import Emissions
from pilothouse.engine.scheduler.spec_decode import Verified, accepted_only, waves
from pilothouse.engine.unsupported_flags import DRAFT_METHODS, refuse_settings
from pilothouse.errors import EngineError, UnsupportedError
from pilothouse.term import SteerTerm
from tests.reference.hf_hooks import HookedEdit, HookedModel
from tests.support.engines.catalogs import vector
from tests.support.engines.draft_answers import (
    PROMPT,
    VECTOR_LAYERS,
    Answer,
    answer_marks,
    requests,
    run,
    world_plan,
)
from tests.support.engines.drafters import KNOWING, NGRAM, knowing, watch_drafts
from tests.support.engines.harness import BLOCK, all_logprobs, engine, forced_async
from tests.support.engines.own_process import said_by

pytestmark = pytest.mark.engine

SAME = 1e-5
DRAFTED = "tests.support.engines.draft_answers"


@dataclass(frozen=True)
class ScoredSpans:
    """The same requests without drafts, with them, and (drafts, accepted) of each step."""

    plain: dict[str, Answer]
    drafted: dict[str, Answer]
    seen: list[tuple[int, int]]


@pytest.fixture(scope="module")
def plan(qwen3: Path) -> Plan:
    return world_plan(qwen3)


@pytest.fixture(scope="module")
def marks(qwen3: Path) -> list[int]:
    return answer_marks(qwen3)


@pytest.fixture(scope="module")
def plain(qwen3: Path, plan: Plan, marks: list[int]) -> dict[str, Answer]:
    with engine(qwen3, plan) as started:
        return run(started, requests(marks))


@pytest.fixture(
    scope="module",
    params=[
        "knowing",
        "ngram",
        pytest.param("model", marks=pytest.mark.full),
        pytest.param("model --v2", marks=pytest.mark.full),
    ],
)
def runs(
    request: pytest.FixtureRequest,
    qwen3: Path,
    plan: Plan,
    marks: list[int],
    plain: dict[str, Answer],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ScoredSpans]:
    if request.param != "knowing":
        folder = tmp_path_factory.mktemp("drafted")
        method, *flags = request.param.split()
        said_by(DRAFTED, folder, str(qwen3), method, str(folder / "found"), *flags)
        found, seen = pickle.loads((folder / "found").read_bytes())
        yield ScoredSpans(plain, found, seen)
        return
    sequences = [PROMPT + each.tokens for each in plain.values()]
    with knowing(sequences), engine(qwen3, plan, speculative_config=KNOWING) as started:
        seen = watch_drafts(started)
        yield ScoredSpans(plain, run(started, requests(marks)), seen)


def test_some_drafts_were_accepted_and_some_rejected(runs: ScoredSpans) -> None:
    accepted = sum(count for _, count in runs.seen)
    assert accepted > 20 and sum(drafts for drafts, _ in runs.seen) > accepted + 20
    assert max(count for _, count in runs.seen) >= 2


def test_answers_and_their_ends_are_those_without_drafts(runs: ScoredSpans) -> None:
    for name, want in runs.plain.items():
        got = runs.drafted[name]
        assert (got.tokens, got.sent, got.end) == (want.tokens, want.sent, want.end), name
        if want.logprobs is not None and got.logprobs is not None:
            assert np.abs(got.logprobs - want.logprobs).max() <= 1e-4, name
    assert len({tuple(each.tokens) for each in runs.plain.values()}) > 20


def test_token_scores_are_those_without_drafts(runs: ScoredSpans) -> None:
    count = 0
    for name, want in runs.plain.items():
        got = runs.drafted[name].token_scores
        assert sorted(got) == sorted(want.token_scores), name
        flat = [(i, *each) for i, scores in want.token_scores.items() for each in scores.items()]
        for index, key, score in flat:
            assert abs(got[index][key] - score) <= SAME, (name, index, key)
            count += 1
    assert count > 1200


def test_totals_and_rules_outcomes_are_those_without_drafts(runs: ScoredSpans) -> None:
    fired = set()
    for name, want in runs.plain.items():
        got, wanted = runs.drafted[name].closing, want.closing
        for field in ("steered_tokens", "scored_tokens", "unscored_tokens", "decisions", "verdict"):
            assert getattr(got, field) == getattr(wanted, field), (name, field)
        assert sorted(got.values) == sorted(wanted.values)
        for key, value in wanted.values.items():
            assert abs(got.values[key] - value) <= SAME, (name, key)
        fired |= {each.at_token for each in wanted.decisions if each.result == "blocked"}
    assert len(fired) >= 5, "blocks must fall at several places of a draft"
    assert runs.plain["steer/after"].closing.steered_tokens["v"] >= 3


def test_answers_with_drafts_survive_preemption(qwen3: Path, plan: Plan) -> None:
    asked: dict[str, dict[str, Any]] = {
        f"r{i}": {
            "steer": (SteerTerm(vector="v", scale=i / 4),),
            "scores": "tokens",
            "max_tokens": 45,
        }
        for i in range(6)
    }
    with engine(qwen3, plan) as started:
        calm = run(started, asked)
    small = {"num_gpu_blocks_override": 15, "speculative_config": KNOWING}
    sequences = [PROMPT + each.tokens for each in calm.values()]
    with knowing(sequences), engine(qwen3, plan, **small) as started:
        seen = watch_drafts(started)
        found = run(started, asked)
        first = [
            name
            for step in started.emissions
            for name, start in zip(step.request_ids, step.starts, strict=True)
            if start == 0
        ]
        assert len(first) > len(asked), "somebody must be preempted"
    both = ScoredSpans(calm, found, seen)
    test_some_drafts_were_accepted_and_some_rejected(both)
    for name, want in calm.items():
        assert found[name].sent == want.sent, name
        assert found[name].closing.steered_tokens == want.closing.steered_tokens, name
        assert sorted(found[name].token_scores) == sorted(want.token_scores), name
        for index, scores in want.token_scores.items():
            assert abs(found[name].token_scores[index]["p0"] - scores["p0"]) <= SAME, (name, index)


def test_a_policys_steering_begins_behind_what_was_computed_and_its_kv_serves_nobody_else(
    qwen3: Path, plan: Plan, plain: dict[str, Answer]
) -> None:
    settings: dict[str, Any] = {"speculative_config": KNOWING, "enable_prefix_caching": True}
    oracle = HookedModel(qwen3)
    sequence = PROMPT + plain["steer/none"].tokens
    with knowing([sequence]), engine(qwen3, plan, **settings) as started:
        seen = watch_drafts(started)
        name, spans = "pushed", []
        params = started.params(
            policies=["push"], decision_id=name, logprobs=-1, max_tokens=2 * BLOCK, scores="tokens"
        )
        started.add(name, PROMPT, params)
        inside = next(iter(started.scheduler._request_states.values()))
        output = started.drain(
            lambda: spans.__setitem__(slice(None), inside.timeline.policy_spans())
        )[name]
        answer = list(output.outputs[0].token_ids)
        edits = [
            HookedEdit(layer, row_D, span.start, span.stop)
            for span in spans
            for layer, row_D in zip(
                VECTOR_LAYERS,
                vector("v", VECTOR_LAYERS, seed=1, norm=7.0).directions_LD,
                strict=True,
            )
        ]
        tokens, first = PROMPT + answer, len(PROMPT)
        want_TV = oracle.run(tokens, edits).logprobs_TV[first - 1 : -1]
        assert np.abs(all_logprobs(output) - want_TV).max() <= 1e-4
        assert np.abs(oracle.run(tokens).logprobs_TV[first - 1 : -1] - want_TV).max() >= 0.05
        assert spans and max(count for _, count in seen) >= 1
        again = started.run([tokens], started.params(max_tokens=1, logprobs=-1))[0]
        plain_V = oracle.run(tokens).logprobs_TV[-1]
        assert np.abs(all_logprobs(again)[0] - plain_V).max() <= 1e-4
        assert np.abs(oracle.run(tokens, edits).logprobs_TV[-1] - plain_V).max() >= 1e-2


def test_waves_are_the_settled_rows_one_token_of_each_draft_at_a_time() -> None:
    scores_TE = np.arange(24, dtype=np.float32).reshape(12, 2)
    step = Emissions(("a", "b", "c", "d"), (5, 30, 40, 50), (3, 4, 1, 4), scores_TE)
    verified = {"b": Verified(2, 2), "d": Verified(3, 0)}
    kept = accepted_only(step, verified)
    assert (kept.starts, kept.counts) == ((5, 30, 40, 50), (3, 2, 1, 3))
    assert kept.scores_TE[:, 0].tolist() == [0, 2, 4, 6, 8, 14, 16, 18, 20]
    parts = list(waves(kept, verified))
    assert [part.request_ids for part in parts] == [("a", "b", "c", "d"), ("b", "d"), ("d",)]
    assert [part.starts for part in parts] == [(5, 30, 40, 50), (31, 51), (52,)]
    assert [part.counts for part in parts] == [(3, 1, 1, 1), (1, 1), (1,)]
    rows = [part.scores_TE[:, 0].tolist() for part in parts]
    assert rows == [[0, 2, 4, 6, 14, 16], [8, 18], [20]]
    assert list(waves(step, {})) == [step] and accepted_only(step, {}) is step


def test_scheduling_ahead_is_off_where_drafts_are_made_and_refused_where_asked_for() -> None:
    drafting = Namespace(speculative_config=NGRAM, async_scheduling=None)
    settle_speculation(drafting)
    assert drafting.async_scheduling is False
    untouched = Namespace(speculative_config=None, async_scheduling=None)
    settle_speculation(untouched)
    assert untouched.async_scheduling is None
    with pytest.raises(UnsupportedError, match="--async-scheduling"):
        settle_speculation(Namespace(speculative_config=NGRAM, async_scheduling=True))


@pytest.mark.parametrize("method", [*DRAFT_METHODS, "eagle3", "suffix", None])
def test_only_methods_that_are_tested_are_let_through(method: str | None) -> None:
    args = Namespace(speculative_config={"method": method, "num_speculative_tokens": 2})
    if method in DRAFT_METHODS:
        refuse_settings(args)
    else:
        with pytest.raises(UnsupportedError, match="ngram and draft_model"):
            refuse_settings(args)


def test_an_engine_that_would_schedule_ahead_of_drafts_does_not_start(
    qwen3: Path, plan: Plan
) -> None:
    with (
        forced_async(),
        pytest.raises(EngineError, match="async scheduling"),
        engine(qwen3, plan, speculative_config=KNOWING),
    ):
        pass
