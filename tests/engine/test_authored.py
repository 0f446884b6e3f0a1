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

from pilothouse.engine.turn_markers import Opening, TurnMarkers
from pilothouse.model.catalogue import Catalogue
from pilothouse.types import Phase
from tests.engine.drafters import KNOWING, knowing
from tests.engine.harness import Engine, engine, forced_async, make_plan
from tests.engine.worlds import firing_row, policy, probe, readout
from tests.reference.hf_hooks import HookedModel

pytestmark = pytest.mark.engine

LAYER = 2
USER = 201
PROMPT = [USER, 100, 50, 25, 12, 6]
ANSWER_TOKENS = 14
AT = 4
"""The tokens of the answer at AT and AT + 1 are what opens an assistant's turn."""
SUPPLIED = [61, 200, 14, 99]
ALLOWED = 77
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
    block("forced", "forced/prompt_max", "prompt"),
    block("forced-last", "forced/prompt", "prompt"),
    block("supplied", "supplied/now", "output"),
    block("supplied-twice", "supplied/now", "output", f"{WHEN} for 2 tokens"),
    block("supplied-thrice", "supplied/now", "output", f"{WHEN} for 3 tokens"),
    block("supplied-end", "supplied/max", "final"),
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
        "forced": row([*PROMPT, *[ALLOWED] * 8], [len(PROMPT) + 2]),
    }
    readouts = {
        "prompt": readout("prompt"), "prompt_max": readout("prompt", "max"),
        "now": readout("output"), "max": readout("output", "max"),
    }  # fmt: skip
    probes = {name: probe(name, {LAYER: each}, readouts) for name, each in rows.items()}
    turns = TurnMarkers(
        openings=(
            Opening(role="assistant", token_ids=tuple(opening), core=2),
            Opening(role="user", token_ids=(USER,), core=1),
        ),
        missing="",
    )
    return make_plan(Catalogue(probes=probes), POLICIES, turns=turns), answer, opening


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
        with start() as started:
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
    return None if record.verdict is None else (record.verdict.policy, record.verdict.phase)


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
    _, _, record = ask(world, [*PROMPT, *world.opening, USER], "elsewhere", max_tokens=1)
    assert record.values["elsewhere/prompt"] > record.values["opening/prompt"] * 0
    _, sent, record = ask(world, PROMPT, "said", max_tokens=1)
    assert len(sent) == 1 and "said/prompt" in record.values


def test_an_opening_in_the_output_is_judged_before_anything_behind_it_leaves(
    world: World,
) -> None:
    for name in ("later", "later-as-error"):
        output, sent, record = ask(world, PROMPT, name, max_tokens=12)
        assert sent == world.answer[: AT + 2][: len(sent)]
        assert (output.finish_reason, output.stop_reason) == ("stop", "pilothouse:block")
        assert verdict_of(record) == (name, "output")
        [outcome] = record.outcomes
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
    assert [each.result for each in record.outcomes] == ["would_block"]


@pytest.mark.parametrize("name", ["supplied", "supplied-twice"])
def test_output_rules_judge_what_a_client_wrote_of_an_answer(world: World, name: str) -> None:
    _, sent, record = ask(world, [*world.asked, *SUPPLIED], name)
    assert (sent, verdict_of(record)) == ([], (name, "output"))
    assert record.outcomes[0].at_token is None


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


def test_forced_tokens_are_judged_by_rules_on_the_prompt(world: World) -> None:
    more = {"allowed_token_ids": [ALLOWED], "max_tokens": 6}
    _, sent, record = ask(world, PROMPT, "forced", **more)
    assert len(sent) <= 3 and verdict_of(record) == ("forced", "output")
    assert record.outcomes[0].at_token == 2
    _, sent, record = ask(world, PROMPT, "forced-last", **more)
    assert (len(sent), record.verdict) == (6, None)


def test_what_a_model_says_freely_is_not_its_prompt(world: World) -> None:
    _, sent, record = ask(world, PROMPT, "forced", max_tokens=6)
    assert (sent, record.verdict) == (world.answer[:6], None)
