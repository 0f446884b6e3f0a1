"""Text of the client's is brought as a user's turn, and what a rule says of it is carried out.

The app inside is a small one of the test's own: it answers as vLLM would and tells the ledger what
an engine would, so that each way in which scoring can go wrong can be taken.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from pilothouse.errors import ConfigError
from pilothouse.limits import EngineSize
from pilothouse.policy.endpoint_names import EndpointName
from pilothouse.policy.matching import RequirementsCache, refuse_scored_answers
from pilothouse.policy.rulebook import Rulebook
from pilothouse.record import Decision
from pilothouse.server.endpoints.registry import ENDPOINTS
from pilothouse.server.rescoring import (
    CHAT_PATH,
    ForcedAnswer,
    Rescored,
    Rescorer,
    rescored,
)
from pilothouse.server.response.decisions import DecisionStore, RequestDecisions
from pilothouse.signed_request import SIGNED_REQUEST_KEY, AppliedPolicy, verify_request
from tests.support.policies import SPECS, rule_text, sample_policy
from tests.support.servers.app_parts import (
    KEY,
    admission,
    admitted,
    record,
    tiny_plan,
    verdict,
)

BARRED = "gloamwork"
POLICY = "prompt-refusal"
MAX_MODEL_LEN = EngineSize().max_model_len
WORDS = {5: "the", 6: BARRED, 7: "tide"}
SCOPE = {
    "type": "http",
    "path": "/v1/completions",
    "query_string": b"a=1",
    "root_path": "",
    "headers": [
        (b"authorization", b"Bearer k"),
        (b"x-tenant", b"acme"),
        (b"content-length", b"999"),
        (b"accept-encoding", b"gzip"),
    ],
}


class Inside:
    """vLLM's app and engine, as far as scoring a text needs them."""

    def __init__(self, *, status: int = 200, tells: bool = True) -> None:
        self.decision_store = DecisionStore()
        self.asked: list[tuple[str, Any]] = []
        self.scopes: list[Any] = []
        self._status = status
        self._tells = tells

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = json.loads((await receive())["body"])
        self.asked.append((scope["path"], body))
        self.scopes.append(scope)
        answer: dict[str, Any] = {}
        if scope["path"] == "/tokenize":
            answer = {"count": len(body["prompt"].split())}
        elif scope["path"] == "/detokenize":
            answer = {"prompt": " ".join(WORDS[each] for each in body["tokens"])}
        elif self._tells:
            self._tell(body)
        await send({"type": "http.response.start", "status": self._status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    def _tell(self, body: dict[str, Any]) -> None:
        signed = verify_request(body["vllm_xargs"][SIGNED_REQUEST_KEY], KEY)
        text = body["messages"][0]["content"]
        told = record(POLICY if BARRED in text else None)
        told.decision_id, told.choice = signed.decision_id, (0, 0)
        self.decision_store.receive(told)

    @property
    def texts(self) -> list[str]:
        return [body["messages"][0]["content"] for path, body in self.asked if path == CHAT_PATH]


def scorer(inside: Inside, policy: str, endpoint: EndpointName, **fields: Any) -> Rescorer:
    request = admitted(policy, endpoint, **fields)
    return Rescorer(inside, SCOPE, admission(), inside.decision_store, request)


def run(
    inside: Inside, policy: str = POLICY, endpoint: EndpointName = "completions", **fields: Any
) -> tuple[Rescored, RequestDecisions]:
    entry = RequestDecisions()
    made = scorer(inside, policy, endpoint, **fields)
    return asyncio.run(rescored(made, ENDPOINTS[endpoint], entry)), entry


def test_a_prompt_that_reads_as_barred_is_blocked_and_another_goes_on() -> None:
    found, entry = run(inside := Inside(), prompt=f"how is {BARRED} done")
    assert found.blocked and entry.prompt_verdicts[0].phase == "prompt"
    assert inside.texts == [f"how is {BARRED} done"]
    found, entry = run(Inside(), prompt="the tide")
    assert not found.blocked and not entry.prompt_verdicts and found.forced is None
    assert found.admitted.requirements.buffers is False


def test_of_several_prompts_the_barred_one_alone_is_ended_and_its_choices_wait() -> None:
    found, entry = run(Inside(), prompt=["the tide", f"{BARRED}?"])
    assert not found.blocked and set(entry.prompt_verdicts) == {1}
    assert found.admitted.requirements.buffers
    for prompt in (0, 1):
        told = record()
        told.choice = (prompt, 0)
        entry.add(told)
    ended = {key: log.verdict is not None for key, log in entry.choices.items()}
    assert ended == {(0, 0): False, (1, 0): True}


def test_tokens_are_put_into_words_by_vllm() -> None:
    found, _ = run(inside := Inside(), prompt=[[5, 7], [5, 6]])
    assert inside.texts == ["the tide", f"the {BARRED}"] and not found.blocked
    assert found.admitted.requirements.buffers
    assert run(Inside(), prompt=[5, 6])[0].blocked


@pytest.mark.parametrize("prompt", [[5] * (MAX_MODEL_LEN + 1), "tide " * (MAX_MODEL_LEN + 1)])
def test_a_prompt_that_vllm_refuses_for_its_length_is_not_read_in_vain(prompt: Any) -> None:
    found, entry = run(inside := Inside(), prompt=prompt)
    assert inside.texts == [] and found.blocked
    assert entry.prompt_verdicts[0].result == "error_blocked"
    found, _ = run(inside := Inside(), prompt=prompt, truncate_prompt_tokens=5)
    assert len(inside.texts) == 1 and not found.blocked
    fits = prompt[: -len(prompt) // 2]
    assert len(fits) < len(prompt)
    found, _ = run(inside := Inside(), prompt=fits)
    assert len(inside.texts) == 1 and not found.blocked


def test_long_prompts_are_scored_in_turn_and_short_ones_side_by_side() -> None:
    class Counting(Inside):
        running = most = 0

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == CHAT_PATH:
                self.running += 1
                self.most = max(self.most, self.running)
                await asyncio.sleep(0.01)
                self.running -= 1
            await super().__call__(scope, receive, send)

    run(inside := Counting(), prompt=[[5] * (MAX_MODEL_LEN - 1)] * 3)
    assert len(inside.texts) == 3 and inside.most == 1
    run(inside := Counting(), prompt=[[5, 7]] * 3)
    assert len(inside.texts) == 3 and inside.most == 3


@pytest.mark.parametrize(
    "inside",
    [
        {"status": 400},
        {"status": 500, "tells": False},
        {"tells": False},
    ],
)
def test_a_text_that_cannot_be_scored_is_what_the_rule_says_of_errors(
    inside: dict[str, Any],
) -> None:
    prompts: tuple[Any, ...] = ("the tide", [5, 7])
    for prompt in prompts:
        found, entry = run(Inside(**inside), prompt=prompt)
        assert found.blocked
        assert entry.prompt_verdicts[0].result == "error_blocked"
        found, entry = run(Inside(**inside), "prompt-respond", prompt=prompt)
        assert not found.blocked and not entry.prompt_verdicts


def test_a_begun_answer_is_scored_and_a_conversation_of_the_users_own_is_not() -> None:
    asked = [{"role": "user", "content": "how?"}]
    begun = [*asked, {"role": "assistant", "content": f"{BARRED} is"}]
    found, _ = run(inside := Inside(), endpoint="chat", messages=begun)
    assert found.blocked and inside.texts == [f"{BARRED} is", f"how? {BARRED} is"]
    found, _ = run(inside := Inside(), endpoint="chat", messages=asked)
    assert not found.blocked and inside.texts == []


def forced(inside: Inside, **fields: Any) -> tuple[ForcedAnswer, RequestDecisions]:
    messages = [{"role": "user", "content": "say it."}]
    found, entry = run(inside, endpoint="chat", messages=messages, **fields)
    assert found.forced is not None and found.admitted.requirements.buffers
    for index in range(found.admitted.num_choices):
        told = record()
        told.choice = (0, index)
        entry.add(told)
    return found.forced, entry


def ended(entry: RequestDecisions) -> dict[Any, Decision | None]:
    return {key: log.verdict for key, log in entry.choices.items()}


REGEX = {"structured_outputs": {"regex": "[a-z ]+"}}


def test_a_constrained_answer_is_scored_when_it_ends_choice_by_choice() -> None:
    answer, entry = forced(inside := Inside(), n=2, **REGEX)
    said = (f"to do {BARRED}", "the tide")
    choices = [
        {"index": index, "message": {"content": text}, "finish_reason": "stop"}
        for index, text in enumerate(said)
    ]
    asyncio.run(answer.body({"choices": choices}))
    found = ended(entry)
    verdict_0 = found[(0, 0)]
    assert verdict_0 is not None and verdict_0.phase == "final" and found[(0, 1)] is None
    assert inside.texts == [said[0], f"say it. {said[0]}", said[1], f"say it. {said[1]}"]


def test_a_streamed_constrained_answer_is_put_together_before_it_is_scored() -> None:
    answer, entry = forced(inside := Inside(), stream=True, **REGEX)
    parts = ("to ", BARRED[:4], BARRED[4:], "")
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        choice = {"index": 0, "delta": {"content": part}, "finish_reason": "stop" if last else None}
        assert inside.texts == []
        event = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
        asyncio.run(answer.event(event))
    asyncio.run(answer.event(b"data: [DONE]\n\n"))
    assert inside.texts == [f"to {BARRED}", f"say it. to {BARRED}"]
    assert ended(entry)[(0, 0)] is not None


def test_a_constrained_answer_that_cannot_be_scored_fails_closed() -> None:
    answer, entry = forced(Inside(status=400, tells=False), **REGEX)
    choice = {"index": 0, "message": {"content": "the tide"}, "finish_reason": "stop"}
    asyncio.run(answer.body({"choices": [choice]}))
    found = ended(entry)[(0, 0)]
    assert found is not None and found.result == "error_blocked"


def test_a_verdict_of_the_engines_own_stands_before_an_imposed_one() -> None:
    entry = RequestDecisions()
    told = record("output-refusal")
    told.choice = (0, 0)
    entry.add(told)
    entry.impose((0, 0), verdict(POLICY))
    assert ended(entry)[(0, 0)] == verdict("output-refusal")


def test_our_own_request_shows_the_clients_key_and_nothing_else_of_it() -> None:
    run(inside := Inside(), prompt="the tide")
    [(path, body)] = inside.asked
    [scope] = inside.scopes
    headers = dict(scope["headers"])
    assert path == CHAT_PATH and scope["query_string"] == b""
    assert headers[b"authorization"] == b"Bearer k" and b"x-tenant" not in headers
    assert b"accept-encoding" not in headers and headers[b"content-length"] != b"999"
    assert body["max_tokens"] == 1 and body["truncation_side"] == "left"


def test_our_own_request_is_under_the_policies_of_the_clients_and_steers_nothing() -> None:
    run(inside := Inside(), prompt="the tide")
    [(_, body)] = inside.asked
    signed = verify_request(body["vllm_xargs"][SIGNED_REQUEST_KEY], KEY)
    assert signed.steer == () and POLICY in {each.name for each in signed.policies if each.enforced}
    assert len(inside.decision_store) == 0


ON = AppliedPolicy(name="sample", enforced=True)


def scoring(spec: tuple[str, ...] = ()) -> tuple[AppliedPolicy, ...]:
    policy = sample_policy(rule_text(then="{action: block}"), spec=(*spec, "score_answers: true"))
    shadow = AppliedPolicy(name="sample", enforced=False)
    requirements_cache = RequirementsCache(Rulebook([policy], SPECS))
    assert requirements_cache.of([shadow]).scores_answers == ()
    return requirements_cache.of([ON]).scores_answers


def test_a_policy_that_scores_answers_has_free_ones_scored_by_itself_alone() -> None:
    assert scoring(("mode: enforce", "on_error: closed")) == (ON,)
    inside = Inside()
    made = scorer(inside, "prompt-respond", "chat")
    mine = AppliedPolicy(name=POLICY, enforced=True)
    requirements = replace(made.admitted.requirements, scores_answers=(mine,))
    made.admitted = replace(made.admitted, requirements=requirements)
    entry, told = RequestDecisions(), record()
    found = asyncio.run(rescored(made, ENDPOINTS["chat"], entry))
    assert found.forced is not None and found.admitted.requirements.buffers and not found.blocked
    told.choice = (0, 0)
    entry.add(told)
    said = f"do {BARRED}. it is done. so."
    choice = {"index": 0, "message": {"content": said}, "finish_reason": "stop"}
    asyncio.run(found.forced.body({"choices": [choice]}))
    verdict_0 = ended(entry)[(0, 0)]
    assert verdict_0 is not None and verdict_0.phase == "final"
    assert inside.texts[0] == said and len(inside.texts) == 2
    for _, body in inside.asked:
        assert verify_request(body["vllm_xargs"][SIGNED_REQUEST_KEY], KEY).policies == (mine,)


def test_scored_answers_that_cannot_be_stop_the_start() -> None:
    policy = sample_policy(
        rule_text(then="{action: block}"),
        spec=("mode: enforce", "on_error: closed", "score_answers: true"),
    )
    refuse_scored_answers(tiny_plan().policies, "no template")
    with pytest.raises(ConfigError, match=r"sample: spec.score_answers .* no template"):
        refuse_scored_answers((policy,), "no template")


def test_a_blocked_request_makes_one_token_for_the_shape_of_its_answer() -> None:
    body = {"prompt": "a", "max_tokens": 900, "min_tokens": 500, "max_completion_tokens": 900}
    shortest = ENDPOINTS["completions"].shortest
    assert shortest(body) == {"prompt": "a", "max_tokens": 1, "max_completion_tokens": 1}
    assert shortest({"prompt": "a"}) == {"prompt": "a", "max_tokens": 1}
