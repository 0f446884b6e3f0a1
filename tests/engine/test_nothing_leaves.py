"""Nothing-leaves: no token of the run that made an enforced rule fire and none after it.

Probes here are rows solved for, so that they fire at chosen tokens of a known greedy answer. What
left is read where outputs leave the engine core, before any API process could hide it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pilothouse.artifacts.catalog import Catalog
from tests.reference.hf_hooks import HookedModel
from tests.support.engines.catalogs import firing_row, policy, probe, readout
from tests.support.engines.drafters import KNOWING, NUM_DRAFTS, knowing, watch_drafts
from tests.support.engines.harness import Engine, engine, forced_async, make_plan

pytestmark = pytest.mark.engine

LAYER = 2
ANSWER_TOKENS = 24
PROMPT = [7, 81, 33, 120, 5, 60, 61, 200, 14, 99]
OVERFLOW = np.full(64, 3e38, np.float32)
FIRES_AT = {"first": (0,), "fifth": (5,), "run": (3, 6, 7, 8), "pair": (9, 10)}
WHEN_FIRED = "x >= 0.5"


@dataclass(frozen=True)
class World:
    """An engine and the greedy answer to PROMPT when nobody interferes."""

    engine: Engine
    answer: list[int]
    drafts: int = 0


def block(name: str, probe_name: str, when: str = WHEN_FIRED, **rule: object):
    """An enforced output block over a probe's newest token."""
    fields = {"id": "stop", "phase": "output", "when": when, "then": {"action": "block"}} | rule
    return policy(name, [fields], {"x": f"{probe_name}/now"})


def make_world_plan(model: Path):
    """Probes that fire at known tokens of the answer, and policies over them."""
    oracle = HookedModel(model)
    answer = oracle.generate(PROMPT, ANSWER_TOKENS)
    stream_TD = oracle.run(PROMPT + answer).streams[LAYER]
    now = {"now": readout("output")}
    probes = {
        name: probe(name, {LAYER: firing_row(stream_TD, [len(PROMPT) + i for i in indices])}, now)
        for name, indices in FIRES_AT.items()
    }
    probes["prompted"] = probe(
        "prompted", {LAYER: firing_row(stream_TD, [4])}, {"now": readout("prompt", "max")}
    )
    probes["entry"] = probe(
        "entry", {LAYER: firing_row(stream_TD, [len(PROMPT) - 1])}, {"now": readout("answer")}
    )
    probes["broken"] = probe("broken", {LAYER: OVERFLOW}, now)
    probes["quiet"] = probe("quiet", {LAYER: firing_row(stream_TD, [])}, now)
    policies = (
        block("at-first", "first"),
        block("at-fifth", "fifth"),
        block("after-three", "run", "x >= 0.5 for 3 tokens"),
        block("leaky", "run", "x >= 0.5 for 3 tokens", leak_tokens=2),
        block("answer-instead", "fifth", then={"action": "respond", "message": "No."}),
        block("prompt-rule", "prompted", phase="prompt"),
        block("entry-rule", "entry"),
        block("broken-closed", "broken"),
        policy(
            "broken-open",
            [{"id": "stop", "phase": "output", "when": WHEN_FIRED, "then": {"action": "block"}}],
            {"x": "broken/now"},
            on_error="open",
        ),
        block("never", "quiet"),
        block("never-for-three", "pair", "x >= 0.5 for 3 tokens"),
    )
    return make_plan(Catalog(probes=probes), policies), answer


@pytest.fixture(scope="module", params=["sync", "async", "drafts"])
def world(request: pytest.FixtureRequest, qwen3: Path) -> Iterator[World]:
    plan, answer = make_world_plan(qwen3)
    start = functools.partial(engine, qwen3, plan, max_model_len=len(PROMPT) + ANSWER_TOKENS)
    if request.param == "async":
        with forced_async(), start() as started:
            assert type(started.scheduler).__name__ == "GuardedAsyncScheduler"
            assert started.core.batch_queue is not None, "no step would be in flight"
            yield World(started, answer)
    elif request.param == "drafts":
        with knowing([PROMPT + answer]), start(speculative_config=KNOWING) as started:
            seen = watch_drafts(started)
            yield World(started, answer, NUM_DRAFTS)
        accepted = [count for _, count in seen]
        assert max(accepted) >= 3 and sum(drafts for drafts, _ in seen) > sum(accepted) + 10
    else:
        with start() as started:
            yield World(started, answer)


_names = iter(range(1 << 30))


def ask(world: World, *policies: str, max_tokens: int = 16, **more: object):
    """One request alone; its output, all tokens that left the core, and its last record."""
    name = f"ask{next(_names)}"
    params = world.engine.params(policies=policies, decision_id=name, max_tokens=max_tokens, **more)
    world.engine.add(name, PROMPT, params)
    output = world.engine.drain()[name].outputs[0]
    sent = world.engine.sent_tokens(name)
    assert sent == list(output.token_ids)
    return output, sent, world.engine.closing(name)


def test_the_answer_without_policies_is_the_reference_answer(world: World) -> None:
    _, sent, record = ask(world)
    assert sent == world.answer[:16]
    assert record.verdict is None


def test_a_block_withholds_the_token_that_fired_and_all_after_it(world: World) -> None:
    output, sent, record = ask(world, "at-fifth")
    assert sent == world.answer[:5]
    assert (output.finish_reason, output.stop_reason) == ("stop", "pilothouse:block")
    assert record.verdict is not None
    assert (record.verdict.result, record.verdict.policy) == ("blocked", "at-fifth")
    assert record.decisions[0].at_token == 5


def test_for_three_tokens_withholds_the_whole_run(world: World) -> None:
    _, sent, record = ask(world, "after-three")
    assert sent == world.answer[:6]
    assert record.decisions[0].at_token == 8


def test_leak_tokens_let_so_many_tokens_of_the_run_leave(world: World) -> None:
    _, sent, _ = ask(world, "leaky")
    assert sent == world.answer[:8]


def test_a_run_that_breaks_leaves_in_full(world: World) -> None:
    output, sent, record = ask(world, "never-for-three")
    assert sent == world.answer[:16]
    assert (output.finish_reason, record.verdict) == ("length", None)


def test_respond_ends_like_a_block_with_its_own_result(world: World) -> None:
    _, sent, record = ask(world, "answer-instead")
    assert sent == world.answer[:5]
    assert record.verdict is not None and record.verdict.result == "responded"


@pytest.mark.parametrize("max_tokens", [1, 3, 16])
def test_a_prompt_block_gives_no_token(world: World, max_tokens: int) -> None:
    output, sent, record = ask(world, "prompt-rule", max_tokens=max_tokens)
    assert sent == []
    assert output.stop_reason == "pilothouse:block"
    assert record.verdict is not None and record.verdict.phase == "prompt"


def test_an_answer_rule_that_fires_at_the_last_prompt_token_gives_no_token(world: World) -> None:
    _, sent, record = ask(world, "entry-rule")
    assert sent == []
    assert record.verdict is not None and record.decisions[0].at_token is None


def test_max_tokens_one_scores_the_only_token_before_it_leaves(world: World) -> None:
    output, sent, _ = ask(world, "at-first", max_tokens=1)
    assert sent == []
    assert output.finish_reason == "stop"
    output, sent, _ = ask(world, "at-fifth", max_tokens=1)
    assert sent == world.answer[:1]
    assert output.finish_reason == "length"


def test_an_offending_last_token_does_not_leave(world: World) -> None:
    _, sent, record = ask(world, "at-fifth", max_tokens=6)
    assert sent == world.answer[:5]
    assert record.verdict is not None


def test_a_length_end_gives_every_token_scored(world: World) -> None:
    output, sent, record = ask(world, "never", max_tokens=6)
    assert sent == world.answer[:6]
    assert output.finish_reason == "length"
    assert record.scored_tokens["quiet"] == len(PROMPT) + 6
    assert record.unscored_tokens == {}


def test_at_the_models_longest_the_last_token_is_withheld_and_counted(world: World) -> None:
    output, sent, record = ask(world, "never", max_tokens=ANSWER_TOKENS)
    assert sent == world.answer[: ANSWER_TOKENS - 1]
    assert output.finish_reason == "length"
    assert record.unscored_tokens == {"length_end": 1}


def test_one_token_at_a_time_nothing_leaves_early(world: World) -> None:
    name = "stepping"
    params = world.engine.params(policies=["after-three"], decision_id=name, max_tokens=16)
    world.engine.add(name, PROMPT, params)
    left: list[int] = []

    def look() -> None:
        nonlocal left
        now = world.engine.sent_tokens(name)
        assert now == world.answer[: len(now)]
        assert len(now) <= 6
        assert len(now) - len(left) <= 2 + world.drafts
        left = now

    world.engine.drain(look)
    assert left == world.answer[:6]


def test_logprobs_leave_with_their_tokens_and_never_without(world: World) -> None:
    before = len(world.engine.sent)
    output, sent, _ = ask(world, "after-three", logprobs=3)
    for each in world.engine.sent[before:]:
        assert each.num_logprobs == len(each.token_ids)
    assert len(output.logprobs) == len(sent) == 6
    free, _, _ = ask(world, logprobs=3)
    assert [set(each) for each in output.logprobs] == [set(each) for each in free.logprobs[:6]]


def test_token_scores_are_of_released_tokens_and_name_them(world: World) -> None:
    name = "scored"
    params = world.engine.params(
        policies=["at-fifth"], decision_id=name, scores="tokens", max_tokens=16
    )
    world.engine.add(name, PROMPT, params)
    world.engine.drain()
    scores = [each for record in world.engine.records[name] for each in record.token_scores]
    assert [each.index for each in scores] == [0, 1, 2, 3, 4]
    assert [each.token_id for each in scores] == world.answer[:5]
    assert max(each.scores["fifth"] for each in scores) < 0.01
    assert all("broken" not in each.scores for each in scores)


def test_token_scores_without_hold_back_name_the_token_they_are_of(world: World) -> None:
    name = "free-scores"
    params = world.engine.params(decision_id=name, scores="tokens", max_tokens=9)
    world.engine.add(name, PROMPT, params)
    world.engine.drain()
    scores = [each for record in world.engine.records[name] for each in record.token_scores]
    assert [each.token_id for each in scores] == world.answer[:8]
    assert [each.index for each in scores if each.scores["run"] > 0.9] == [3, 6, 7]


def test_an_abort_in_the_middle_ends_what_leaves_and_still_reports(world: World) -> None:
    name = "aborted"
    params = world.engine.params(policies=["after-three"], decision_id=name, max_tokens=16)
    world.engine.add(name, PROMPT, params)
    while len(world.engine.sent_tokens(name)) < 3:
        world.engine.step()
    before = world.engine.sent_tokens(name)
    world.engine.abort(name)
    ask(world)
    assert world.engine.sent_tokens(name) == before == world.answer[: len(before)]
    record = world.engine.closing(name)
    assert record.aborted
    assert [each.result for each in record.decisions] == ["allowed"]


def test_a_probe_that_overflows_blocks_when_closed(world: World) -> None:
    output, sent, record = ask(world, "broken-closed")
    assert sent == []
    assert output.stop_reason == "pilothouse:block"
    assert record.verdict is not None and record.verdict.result == "error_blocked"


def test_a_probe_that_overflows_is_bypassed_when_open(world: World) -> None:
    _, sent, record = ask(world, "broken-open")
    assert sent == world.answer[:16]
    assert [each.result for each in record.decisions] == ["bypassed"]


def test_in_shadow_the_rule_reports_and_everything_leaves(world: World) -> None:
    name = "shadowed"
    params = world.engine.params(shadow=["at-fifth"], decision_id=name, max_tokens=16)
    world.engine.add(name, PROMPT, params)
    world.engine.drain()
    assert world.engine.sent_tokens(name) == world.answer[:16]
    assert [each.result for each in world.engine.closing(name).decisions] == ["would_block"]


def test_an_end_token_needs_no_score_and_its_answer_leaves(world: World) -> None:
    end = world.answer[4]
    output, sent, record = ask(world, "never", stop_token_ids=[end], max_tokens=16)
    assert sent == world.answer[: world.answer.index(end) + 1]
    assert (output.finish_reason, record.unscored_tokens) == ("stop", {})


def test_an_end_token_one_beyond_max_tokens_is_neither_shown_nor_the_reason(world: World) -> None:
    end, limit = next(
        (t, i) for i, t in enumerate(world.answer) if i > 4 and world.answer.index(t) == i
    )
    output, sent, record = ask(world, "never", stop_token_ids=[end], max_tokens=limit)
    assert sent == world.answer[:limit]
    assert (output.finish_reason, record.unscored_tokens) == ("length", {})


def test_neighbours_of_a_blocked_request_are_untouched(world: World) -> None:
    for i, names in enumerate((["at-fifth"], [], ["after-three"], ["prompt-rule"], ["never"])):
        name = f"n{i}"
        params = world.engine.params(policies=names, decision_id=name, max_tokens=12)
        world.engine.add(name, PROMPT, params)
    world.engine.drain()
    lengths = [len(world.engine.sent_tokens(f"n{i}")) for i in range(5)]
    assert lengths == [5, 12, 6, 0, 12]
    for i, length in enumerate(lengths):
        assert world.engine.sent_tokens(f"n{i}") == world.answer[:length]
