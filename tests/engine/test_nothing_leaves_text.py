"""Nothing-leaves where the API process ends answers or splits them: stop strings, n = 2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from vllm.sampling_params import RequestOutputKind

from pilothouse.artifacts.catalog import Catalog
from tests.reference.hf_hooks import HookedModel
from tests.support.engines.catalogs import firing_row, policy, probe, readout
from tests.support.engines.harness import Engine, engine, make_plan
from tests.support.models.tiny_model import D_MODEL, make_tiny_model

pytestmark = pytest.mark.engine

LAYER = 2
QUESTION = "the boats leave with the tide"
SAMPLED = {"temperature": 1.0, "seed": 11, "n": 2, "max_tokens": 10}
WITH_TEXT = {"skip_tokenizer_init": False}


@dataclass(frozen=True)
class World:
    """An engine with a tokenizer, the greedy answer and the two sampled choices."""

    engine: Engine
    prompt: list[int]
    answer: list[int]
    choices: list[list[int]]

    def text(self, tokens: list[int]) -> str:
        return str(self.engine.llm.get_tokenizer().decode(tokens))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    model = make_tiny_model(tmp_path_factory.mktemp("words"))
    with engine(model, None, **WITH_TEXT) as plain:
        prompt = plain.llm.get_tokenizer().encode(QUESTION)
        [sampled] = plain.run([prompt], plain.params(**SAMPLED))
        choices = [list(each.token_ids) for each in sampled.outputs]
    assert choices[0] != choices[1]
    oracle = HookedModel(model)
    answer = oracle.generate(prompt, 16)
    now = {"now": readout("output")}
    stream_TD = oracle.run(prompt + answer).streams[LAYER]
    both_TD = [oracle.run(prompt + each).streams[LAYER] for each in choices]
    joined_TD = np.concatenate([both_TD[0], both_TD[1][len(prompt) :]])
    at = len(prompt) + 4
    probes = {
        "fifth": probe("fifth", {LAYER: firing_row(stream_TD, [len(prompt) + 5])}, now),
        "choice": probe("choice", {LAYER: firing_row(joined_TD, [at])}, now),
    }
    policies = [
        policy(
            name,
            [{"id": "stop", "phase": "output", "when": "x >= 0.5", "then": {"action": "block"}}],
            {"x": f"{name}/now"},
        )
        for name in probes
    ]
    plan = make_plan(Catalog(probes=probes), policies, d_model=D_MODEL)
    with engine(model, plan, **WITH_TEXT) as started:
        yield World(started, prompt, answer, choices)


def ask(world: World, name: str, *policies: str, **more: object):
    params = world.engine.params(
        policies=policies,
        decision_id=name,
        detokenize=True,
        output_kind=RequestOutputKind.CUMULATIVE,
        **({"max_tokens": 14} | more),
    )
    world.engine.add(name, world.prompt, params)
    texts: list[str] = []
    while world.engine.llm.llm_engine.has_unfinished_requests():
        texts += [each.outputs[0].text for each in world.engine.step()]
    world.engine.step() if world.engine.scheduler.has_requests() else None
    return texts, world.engine.sent_tokens(name)


def test_a_stop_string_in_the_withheld_token_never_shows(world: World) -> None:
    stop = world.text([world.answer[5]])
    first = world.answer.index(world.answer[5])
    texts, sent = ask(world, "stop-late", "fifth", stop=[stop])
    allowed = world.answer[: min(first + 1, 5)]
    assert sent == allowed[: len(sent)]
    assert all(world.text(world.answer[:5]).startswith(text) for text in texts)


def test_a_stop_string_before_the_offending_token_ends_the_answer_with_a_record(
    world: World,
) -> None:
    stop = world.text([world.answer[2]])
    texts, sent = ask(world, "stop-early", "fifth", stop=[stop])
    assert len(sent) <= 4
    assert sent == world.answer[: len(sent)]
    assert not texts[-1].endswith(stop)
    assert texts[-1] == world.text(world.answer)[: world.text(world.answer).index(stop)]
    record = world.engine.closing("stop-early")
    assert record.aborted
    assert [each.result for each in record.decisions] == ["allowed"]


def test_text_buffered_for_a_stop_string_is_of_cleared_tokens(world: World) -> None:
    texts, sent = ask(world, "buffered", "fifth", stop=["zzzzzzzz"])
    assert sent == world.answer[:5]
    assert all(world.text(world.answer[:5]).startswith(text) for text in texts)
    assert world.engine.closing("buffered").verdict is not None


def test_of_two_choices_only_the_offending_one_ends(world: World) -> None:
    params = world.engine.params(policies=["choice"], decision_id="two", **SAMPLED)
    [output] = world.engine.run([world.prompt], params)
    by_index = {each.index: each for each in output.outputs}
    assert list(by_index[0].token_ids) == world.choices[0][:4]
    assert by_index[0].stop_reason == "pilothouse:block"
    assert list(by_index[1].token_ids) == world.choices[1]
    assert by_index[1].finish_reason == "length"
    closing = {each.choice: each for each in world.engine.records["two"] if each.closing}
    assert set(closing) == {(0, 0), (0, 1)}
    assert closing[(0, 0)].verdict is not None
    assert closing[(0, 1)].verdict is None
