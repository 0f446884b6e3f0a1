"""Requests without a server: what no rule would see of them is refused before it runs."""

from __future__ import annotations

import secrets
from typing import Any, NoReturn

import pytest
from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams

from pilothouse.artifacts.catalog import Catalog
from pilothouse.errors import RequestError
from pilothouse.offline.governance import Governance, refuse_chosen_tokens, request_fields
from pilothouse.signed_request import SEAL_KEY_VARIABLE
from tests.support.engines.catalogs import policy, probe, readout
from tests.support.engines.harness import make_plan, random_rows

CHOSEN: list[dict[str, Any]] = [
    {"structured_outputs": StructuredOutputsParams(choice=["yes", "no"])},
    {"structured_outputs": StructuredOutputsParams(json={"type": "object"})},
    {"allowed_token_ids": [5, 6]},
    {"logit_bias": {5: 1.0}},
    {"logit_bias": {token: -1.0 for token in range(20)}},
    {"bad_words": [f"word{number}" for number in range(20)]},
]
FREE: list[dict[str, Any]] = [{}, {"logit_bias": {5: -1.0}}, {"bad_words": ["no"]}, {"n": 2}]


@pytest.fixture(autouse=True)
def _key_of_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SEAL_KEY_VARIABLE, secrets.token_hex(32))


def governance(phase: str, mode: str) -> Governance:
    [row] = random_rows(1, 1)
    readouts = {"read": readout("prompt" if phase == "prompt" else "output")}
    rule = {"id": "r", "phase": phase, "when": "x >= 0.5", "then": {"action": "block"}}
    guard = policy("guard", [rule], {"x": "q/read"}, mode=mode)
    return Governance(make_plan(Catalog(probes={"q": probe("q", {1: row}, readouts)}), (guard,)))


def never(_: list[SamplingParams]) -> NoReturn:
    raise AssertionError("it has run")


def ask(governed: Governance, params: SamplingParams, run: Any = never) -> list[Any]:
    return governed.run("chat", [params], request_fields((), (), "none", 1), None, run)


@pytest.mark.parametrize("chosen", CHOSEN, ids=lambda each: next(iter(each)))
def test_tokens_that_are_chosen_for_the_model_are_refused_by_name(chosen: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=rf"got {next(iter(chosen))}, want .*serve") as caught:
        refuse_chosen_tokens(SamplingParams(**chosen))
    assert caught.value.param == next(iter(chosen))


@pytest.mark.parametrize("free", FREE, ids=lambda each: next(iter(each), "nothing"))
def test_what_leaves_the_choice_to_the_model_is_not(free: dict[str, Any]) -> None:
    refuse_chosen_tokens(SamplingParams(**free))


def test_they_are_refused_under_a_rule_that_can_end_a_prompt_before_anything_runs() -> None:
    with pytest.raises(RequestError, match="structured_outputs"):
        ask(governance("prompt", "enforce"), SamplingParams(**CHOSEN[0]))


@pytest.mark.parametrize(("phase", "mode"), [("prompt", "shadow"), ("output", "enforce")])
def test_a_rule_that_reads_the_answer_or_is_in_shadow_refuses_none(phase: str, mode: str) -> None:
    asked: list[SamplingParams] = []

    def run(params: list[SamplingParams]) -> list[Any]:
        asked.extend(params)
        return []

    with pytest.raises(ValueError, match="zip"):  # no outputs for one prompt: it has run
        ask(governance(phase, mode), SamplingParams(**CHOSEN[0]), run)
    [params] = asked
    assert params.structured_outputs is not None


def test_a_batch_of_which_one_prompt_is_refused_leaves_nothing_open() -> None:
    governed = governance("prompt", "enforce")
    params = [SamplingParams(), SamplingParams(**CHOSEN[0])]
    with pytest.raises(RequestError, match="structured_outputs"):
        governed.run("chat", params, request_fields((), (), "none", 2), None, never)
    assert len(governed._decision_store) == 0
