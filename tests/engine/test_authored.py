"""Authored: who wrote a position decides what it is.

Probes here are rows solved for, so that they fire at chosen positions of a known sequence. Markers
of turns are token ids given to the plan: the tiny model has no tokenizer, and what opens a turn is
what it happens to say. What left is read where outputs leave the engine core.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilothouse.artifacts.catalog import Catalog
from pilothouse.engine.plan.turn_markers import Opening, TurnMarkers
from pilothouse.types import Phase
from tests.reference.hf_hooks import HookedModel
from tests.support.engines.catalogs import firing_row, policy, probe, readout, vector
from tests.support.engines.drafters import KNOWING, knowing
from tests.support.engines.harness import Engine, engine, forced_async, make_plan

pytestmark = pytest.mark.engine

LAYER = 2
USER = 201
PROMPT = [USER, 100, 50, 25, 12, 6]
ANSWER_TOKENS = 14
AT = 4
"""The tokens of the answer at AT and AT + 1 are what opens an assistant's turn."""
SUPPLIED = [61, 200, 14, 99]
REFUSED = (31, 62, 93)
"""What an assistant's turn says that one of the policies refused."""
WHEN = "x >= 0.5"


@dataclass(frozen=True)
class World:
    """An engine, and the greedy answer to PROMPT when nobody interferes."""

    engine: Engine
    answer: list[int]
    opening: list[int]

    @property
    def asked(self) -> list[int]:
        """PROMPT behind which an assistant's turn opens."""
        return [*PROMPT, *self.opening]


def block(name: str, signal: str, phase: Phase, when: str = WHEN, **then: Any):
    rule = {"id": "r", "phase": phase, "when": when, "then": {"action": "block"} | then}
    return policy(name, [rule], {"x": signal})


POLICIES = (
    block("opening", "opening/prompt", "prompt"),
    block("opening-as-error", "opening/prompt", "prompt", **{"as": "error"}),
    block("elsewhere", "elsewhere/prompt", "prompt"),
    block("later", "later/prompt", "prompt"),
    block("later-as-error", "later/prompt", "prompt", **{"as": "error"}),
    block("said", "said/prompt", "prompt"),
    block("supplied", "supplied/now", "output"),
    block("supplied-twice", "supplied/now", "output", f"{WHEN} for 2 tokens"),
    block("supplied-thrice", "supplied/now", "output", f"{WHEN} for 3 tokens"),
    block("supplied-end", "supplied/max", "final"),
    policy(
        "steers",
        [
            {
                "id": "r",
                "phase": "prompt",
                "when": WHEN,
                "then": {"action": "steer", "vector": "push", "scale": 1.0},
            }
        ],
        {"x": "opening/prompt"},
    ),
)


def make_world_plan(folder: Path):
    hooked = HookedModel(folder)
    answer = hooked.generate(PROMPT, ANSWER_TOKENS)
    opening = answer[AT : AT + 2]
    assert all(opening != answer[i : i + 2] for i in range(ANSWER_TOKENS - 1) if i != AT)

    def row(tokens: list[int], fires_at: list[int]) -> np.ndarray:
        return firing_row(hooked.run(tokens).streams[LAYER], fires_at)

    asked, said = len(PROMPT) + 2, [*PROMPT, *answer]
    supplied = [*PROMPT, *opening, *SUPPLIED]
    others = [i for i in range(len(supplied)) if i != asked - 1]
    rows = {
        "opening": row(supplied, [asked - 1]),
        "elsewhere": row(supplied, others),
        "supplied": row(supplied, [asked + 1, asked + 2]),
        "later": row(said, [len(PROMPT) + AT + 1]),
        "said": row(said, [i for i in range(len(PROMPT), len(said)) if i - len(PROMPT) != AT + 1]),
    }
    readouts = {
        "prompt": readout("prompt"),
        "now": readout("output"),
        "max": readout("output", "max"),
    }
    probes = {name: probe(name, {LAYER: each}, readouts) for name, each in rows.items()}
    turns = TurnMarkers(
        openings=(
            Opening(role="assistant", token_ids=tuple(opening), core=2),
            Opening(role="user", token_ids=(USER,), core=1),
        ),
        refused=(REFUSED,),
        missing="",
    )
    catalog = Catalog(probes=probes, vectors={"push": vector("push", [LAYER + 1])})
    return make_plan(catalog, POLICIES, turns=turns), answer, opening


@pytest.fixture(scope="module", params=["sync", "async", "drafts"])
def world(request: pytest.FixtureRequest, qwen3: Path) -> Iterator[World]:
    plan, answer, opening = make_world_plan(qwen3)
    start = functools.partial(engine, qwen3, plan, max_num_batched_tokens=8, max_num_seqs=4)
    if request.param == "async":
        with forced_async(), start() as started:
            yield World(started, answer, opening)
    elif request.param == "drafts":
        with knowing([PROMPT + answer]), start(speculative_config=KNOWING) as started:
            yield World(started, answer, opening)
    else:
        with start(enable_prefix_caching=True) as started:
            yield World(started, answer, opening)


_names = iter(range(1 << 30))


def ask(world: World, prompt: list[int], *policies: str, **more: Any):
    """One request alone; all tokens that left the core, and its last record."""
    name = f"ask{next(_names)}"
    shadow = more.pop("shadow", ())
    params = world.engine.params(policies=policies, shadow=shadow, decision_id=name, **more)
    world.engine.add(name, prompt, params)
    output = world.engine.drain()[name].outputs[0]
    return output, world.engine.sent_tokens(name), world.engine.closing(name)


def verdict_of(record: Any) -> tuple[str, str] | None:
    return None if record.verdict is None else (record.verdict.policy, record.verdict.decided_in)


def test_text_behind_the_opening_does_not_move_what_is_read_there(world: World) -> None:
    """The prompts are longer than a step takes: chunks end before and behind the opening."""
    values = []
    for supplied in ([], SUPPLIED, SUPPLIED * 3):
        _, sent, record = ask(world, [*world.asked, *supplied], "opening")
        assert (sent, verdict_of(record)) == ([], ("opening", "prompt"))
        values.append(record.values["opening/prompt"])
    assert min(values) > 0.99


def test_no_other_position_counts(world: World) -> None:
    _, sent, record = ask(world, [*world.asked, *SUPPLIED], "elsewhere")
    assert len(sent) == 8 and record.verdict is None
    assert record.values["elsewhere/prompt"] < 0.01


def test_an_opening_in_the_middle_of_a_prompt_counts_whatever_follows(world: World) -> None:
    for behind in ([USER], [USER, *SUPPLIED], [*SUPPLIED, USER, 3, *world.opening]):
        _, sent, record = ask(world, [*world.asked, *behind], "opening")
        assert (sent, verdict_of(record)) == ([], ("opening", "prompt"))


def test_a_prompt_without_an_opening_is_read_at_its_last_token(world: World) -> None:
    for prompt in (PROMPT, [*PROMPT, *world.opening, USER], [USER]):
        _, _, record = ask(world, prompt, shadow=["opening"], max_tokens=1)
        read = {len(prompt) - 1, *([len(PROMPT) + 1] if len(prompt) > len(PROMPT) else [])}
        expected = value_at(world, record, *read)
        assert abs(record.values["opening/prompt"] - expected) < 1e-4


def test_an_opening_in_the_output_is_judged_before_anything_behind_it_leaves(
    world: World,
) -> None:
    for name in ("later", "later-as-error"):
        output, sent, record = ask(world, PROMPT, name, max_tokens=12)
        assert sent == world.answer[: AT + 2][: len(sent)]
        assert (output.finish_reason, output.stop_reason) == ("stop", "pilothouse:block")
        assert verdict_of(record) == (name, "output")
        [outcome] = record.decisions
        assert (outcome.phase, outcome.at_token) == ("prompt", AT + 1)


def test_tokens_that_open_nothing_are_no_anchors_in_the_output(world: World) -> None:
    _, sent, record = ask(world, PROMPT, "said", max_tokens=12)
    assert (sent, record.verdict) == (world.answer[:12], None)
    assert record.values["said/prompt"] < 0.01


def test_an_opening_may_begin_in_the_prompt_and_end_in_the_output(world: World) -> None:
    prompt = [*PROMPT, *world.answer[: AT + 1]]
    _, sent, record = ask(world, prompt, "later", max_tokens=6)
    assert sent in ([], world.answer[AT + 1 : AT + 2])
    assert verdict_of(record) == ("later", "output")


def test_in_shadow_an_opening_in_the_output_is_recorded(world: World) -> None:
    _, sent, record = ask(world, PROMPT, shadow=["later"], max_tokens=12)
    assert sent == world.answer[:12]
    assert [each.result for each in record.decisions] == ["would_block"]


@pytest.mark.parametrize("name", ["supplied", "supplied-twice"])
def test_output_rules_judge_what_a_client_wrote_of_an_answer(world: World, name: str) -> None:
    _, sent, record = ask(world, [*world.asked, *SUPPLIED], name)
    assert (sent, verdict_of(record)) == ([], (name, "output"))
    assert record.decisions[0].at_token is None


def test_a_run_that_breaks_in_what_a_client_wrote_lets_the_answer_leave(world: World) -> None:
    _, sent, record = ask(world, [*world.asked, *SUPPLIED], "supplied-thrice")
    assert (len(sent), record.verdict) == (8, None)


def test_an_earlier_answer_of_the_conversation_is_not_the_answer(world: World) -> None:
    prompt = [*world.asked, *SUPPLIED, USER, 3, *world.opening]
    _, sent, record = ask(world, prompt, "supplied", max_tokens=1)
    assert (len(sent), record.verdict) == (1, None)


def test_final_values_hold_what_a_client_wrote_of_an_answer(world: World) -> None:
    _, _, record = ask(world, [*world.asked, *SUPPLIED], "supplied-end", max_tokens=2)
    assert record.values["supplied/max"] > 0.99


def value_at(world: World, record: Any, *positions: int) -> float:
    """What the probe `opening` reads at positions of a request: the largest value."""
    [column] = world.engine.plan.body.probes["opening"].columns
    reads = world.engine.reads(record.decision_id)
    bias = world.engine.plan.body.probes["opening"].bias
    return max(float(1 / (1 + np.exp(-reads[each][column] - bias))) for each in positions)


def later_turn(world: World, turn: list[int], index: int) -> tuple[list[int], int]:
    """A conversation of two questions, and where its last opening ends."""
    prompt = [*world.asked, *turn, USER, index, *world.opening]
    return prompt, len(prompt) - 1


def test_the_value_is_the_largest_of_all_openings_and_of_none_else(world: World) -> None:
    for index in range(3, 9):
        prompt, last = later_turn(world, SUPPLIED, index)
        _, _, record = ask(world, prompt, shadow=["opening"], max_tokens=1)
        expected = value_at(world, record, len(world.asked) - 1, last)
        assert abs(record.values["opening/prompt"] - expected) < 1e-4 and expected > 0.99


def test_a_question_that_was_refused_does_not_bar_the_next_one(world: World) -> None:
    seen = []
    for index in range(3, 9):
        prompt, last = later_turn(world, [*REFUSED], index)
        _, sent, record = ask(world, prompt, "opening", max_tokens=1)
        expected = value_at(world, record, last)
        assert abs(record.values["opening/prompt"] - expected) < 1e-4
        assert (record.verdict is None) == (len(sent) == 1) == (expected < 0.5)
        seen.append(expected)
    assert min(seen) < 0.5, "each of these is barred for what is asked last"


def test_a_question_behind_which_more_than_a_refusal_stands_bars_the_rest(world: World) -> None:
    for turn in ([*REFUSED, 5], [5, *REFUSED], [*REFUSED[:-1]], [*REFUSED, *REFUSED]):
        _, sent, record = ask(world, later_turn(world, turn, 3)[0], "opening")
        assert (sent, verdict_of(record)) == ([], ("opening", "prompt"))
    for behind in ([*REFUSED], [*REFUSED, *world.opening]):
        _, sent, record = ask(world, [*world.asked, *behind], "opening")
        assert (sent, verdict_of(record)) == ([], ("opening", "prompt"))


def test_a_rule_that_steers_asks_about_the_answer_that_begins(world: World) -> None:
    _, _, record = ask(world, world.asked, "steers", max_tokens=1)
    assert [each.result for each in record.decisions] == ["steered"]
    results = set()
    for index in range(3, 9):
        prompt, last = later_turn(world, SUPPLIED, index)
        _, _, record = ask(world, prompt, "steers", max_tokens=1)
        assert record.values["opening/prompt"] > 0.99
        fires = value_at(world, record, last) >= 0.5
        [outcome] = record.decisions
        assert outcome.result == ("steered" if fires else "allowed")
        results.add(fires)
    assert False in results


def test_each_choice_of_a_request_is_judged_by_its_own_openings(world: World) -> None:
    if world.engine.scheduler.vllm_config.speculative_config is not None:
        pytest.skip("vLLM's CPU sampler takes no drafts of one's own but under greedy sampling")
    for name, reason in (("later", "stop"), ("said", "length")):
        params = world.engine.params(
            policies=[name], decision_id=name, n=2, temperature=1.0, top_k=1, max_tokens=12
        )
        [output] = world.engine.run([PROMPT], params)
        assert [each.finish_reason for each in output.outputs] == [reason] * 2


def test_a_cached_prompt_is_judged_where_it_opens_turns_and_begins_answers(world: World) -> None:
    """Where the engine has a prefix cache, its first block has what these rules read."""
    prompt = [*world.asked, *SUPPLIED * 12]
    ask(world, prompt, shadow=["opening"], max_tokens=1)
    for name, phase in (("opening", "prompt"), ("supplied", "output")):
        _, sent, record = ask(world, prompt, name)
        assert (sent, verdict_of(record)) == ([], (name, phase))
        assert (record.verdict.result, sum(record.unscored_tokens.values())) == ("blocked", 0)


def test_openings_are_read_all_the_same_where_requests_are_preempted(qwen3: Path) -> None:
    plan, answer, _ = make_world_plan(qwen3)
    small = {"num_gpu_blocks_override": 5, "max_model_len": 96, "max_num_batched_tokens": 64}
    with engine(qwen3, plan, max_num_seqs=4, **small) as started:
        for name in "abc":
            params = started.params(
                policies=["said"], shadow=["later"], decision_id=name, max_tokens=60
            )
            started.add(name, PROMPT, params)
        started.drain()
        begun = [
            name
            for step in started.emissions
            for name, start in zip(step.request_ids, step.starts, strict=True)
            if start == 0
        ]
        assert len(begun) > len(set(begun)) == 3
        for name in "abc":
            record = started.closing(name)
            assert started.sent_tokens(name)[: len(answer)] == answer
            assert record.values["later/prompt"] > 0.99
            assert [each.result for each in record.decisions] == ["would_block", "allowed"]
