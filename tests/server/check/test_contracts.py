"""Each contract reads what its clients send, refuses what it cannot mean, and answers in shape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers, QueryParams

from pilothouse.errors import RequestError
from pilothouse.limits import Limits
from pilothouse.policy.endpoint_names import CHECK_PATHS, CheckName
from pilothouse.record import Decision
from pilothouse.server.answers import encode
from pilothouse.server.check.contracts.base import Asked
from pilothouse.server.check.contracts.registry import CONTRACTS
from pilothouse.server.check.texts import CheckAnswer, CheckResult, text_input
from pilothouse.server.routes import RouteTable, check_of
from pilothouse.types import Mode, Result

MESSAGE = "The tiny policy has spoken."
TEXTS: dict[CheckName, str] = {
    "check": "input",
    "moderations": "input",
    "litellm": "texts",
    "detectors": "contents",
    "bedrock": "content",
}
"""The list of texts of each contract; NeMo's has a conversation in its place."""


def asked(body: Any, limits: Limits | None = None, *, sees: bool = True, **headers: str) -> Asked:
    return Asked(
        body=body,
        segments={"identifier": "pilothouse", "version": "1"},
        headers=Headers({"detector-id": "pilothouse"} | headers),
        query=QueryParams(""),
        limits=(limits or Limits()).served(),
        models=frozenset({"small", "small:plain"}),
        may_see_scores=sees,
    )


def body_of(name: CheckName, count: int) -> dict[str, Any]:
    """A small body with so many texts."""
    if name == "bedrock":
        return {"source": "INPUT", "content": [{"text": {"text": "a"}}] * count}
    more = {"input_type": "request"} if name == "litellm" else {}
    return {TEXTS[name]: ["a"] * count} | more


def decision(rule: str, result: Result, mode: Mode = "enforce") -> Decision:
    return Decision("policy", rule, "prompt", mode, "block", result)


def answer(*decisions: Decision, scores: dict[str, float] | None, shows: bool) -> CheckAnswer:
    """Of two texts: one of which nothing was concluded, and one with these decisions."""
    signals = {("policy", each.rule): ("probe/a", "probe/b") for each in decisions}
    quiet = CheckResult(text_input("x.0", "fine", "prompt"), "allow", None, (), scores, 3, signals)
    ends = any(each.result in ("blocked", "error_blocked") for each in decisions)
    action: Any = "block" if ends else "allow"
    told = MESSAGE if ends else None
    text = text_input("x.1", "bad", "prompt")
    loud = CheckResult(text, action, told, decisions, scores, 4, signals)
    return CheckAnswer("check-1", "small", "abc", ("policy",), (quiet, loud), shows)


def test_every_contract_has_a_path_that_is_routed_to_it() -> None:
    assert set(CONTRACTS) == set(CHECK_PATHS)
    for name, contract in CONTRACTS.items():
        path = contract.path.replace("{identifier}", "no-misuse").replace("{version}", "DRAFT")
        found = check_of(path)
        assert found is not None and found[0] == name
        assert RouteTable().judge("POST", path).kind == "check"
        assert RouteTable().judge("GET", path).allowed_methods == ("POST",)
    assert check_of("/guardrail/a/version/1/apply") == (
        "bedrock",
        {"identifier": "a", "version": "1"},
    )
    for near in ("/guardrail/a/b/version/1/apply", "/v1/moderations/", "/guardrail//version"):
        assert check_of(near) is None


def test_contracts_can_be_closed_and_not_opened_as_harmless() -> None:
    table = RouteTable((), {CHECK_PATHS["bedrock"]: "switched off"})
    verdict = table.judge("POST", "/guardrail/a/version/1/apply")
    assert (verdict.kind, verdict.reason) == ("denied", "switched off")
    with pytest.raises(Exception, match=r"gate\.allow"):
        RouteTable(["/v1/moderations"])


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_the_texts_of_a_call_are_bounded(name: CheckName) -> None:
    limits = Limits(max_check_texts=2)
    read = CONTRACTS[name].read(asked(body_of(name, 2), limits))
    assert len(read.inputs) == 2
    with pytest.raises(RequestError, match=r"got 3, want at most 2 \(limits\.max_check_texts\)"):
        CONTRACTS[name].read(asked(body_of(name, 3), limits))


@pytest.mark.parametrize("name", ["check", "nemo"])
def test_the_turns_of_a_call_are_bounded(name: CheckName) -> None:
    turns = [{"role": "user", "content": "a"}] * 3
    body = {"messages": turns} if name == "nemo" else {"input": [{"messages": turns}]}
    CONTRACTS[name].read(asked(body, Limits(max_messages=3)))
    with pytest.raises(RequestError, match=r"limits\.max_messages"):
        CONTRACTS[name].read(asked(body, Limits(max_messages=2)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
NAMES = (
    "input texts contents content messages model policies scores source input_type guardrails "
    "detector_params additional_provider_specific_params"
)
KEYS = st.sampled_from(NAMES.split())


@pytest.mark.parametrize("name", sorted(CONTRACTS))
@given(body=st.dictionaries(KEYS, JSON, max_size=5))
def test_whatever_comes_is_read_or_refused_and_the_refusal_can_be_sent(
    name: CheckName, body: dict[str, Any]
) -> None:
    contract = CONTRACTS[name]
    try:
        read = contract.read(asked(body))
    except RequestError as error:
        status, told = contract.error(error)
        assert status in (400, 404, 422)
        json.loads(encode(told))
    else:
        for each in read.inputs:
            roles = [turn["role"] for turn in each.messages]
            assert (roles[-1:] == ["assistant"]) is (each.direction == "answer" and bool(roles))


@pytest.mark.parametrize("name", sorted(CONTRACTS))
@pytest.mark.parametrize("status", [401, 403, 404, 413, 415, 503])
def test_a_refusal_keeps_its_status_in_every_contract(name: CheckName, status: int) -> None:
    assert CONTRACTS[name].error(RequestError("no", status=status))[0] == status


def test_without_the_grant_a_rule_is_named_and_how_it_came_to_it_is_not() -> None:
    blocked, failed = decision("one", "blocked"), decision("two", "error_blocked")
    shown = CONTRACTS["check"].answer(answer(blocked, failed, scores=None, shows=False))
    quiet, loud = shown["results"]
    assert (quiet["flagged"], loud["flagged"], shown["flagged"]) == (False, True, True)
    assert [set(each) for each in loud["decisions"]] == [
        {"policy", "rule", "phase", "mode", "action"}
    ] * 2
    assert "scores" not in loud and loud["message"] == MESSAGE
    granted = CONTRACTS["check"].answer(
        answer(blocked, decision("three", "bypassed"), scores={"probe/a": 0.25}, shows=True)
    )
    assert [each["result"] for each in granted["results"][1]["decisions"]] == [
        "blocked",
        "bypassed",
    ]
    assert granted["results"][1]["scores"] == {"probe/a": 0.25}


def test_a_category_is_true_where_its_rule_would_end_it_alone() -> None:
    decisions = (
        decision("one", "blocked"),
        decision("two", "would_block", "shadow"),
        decision("three", "allowed"),
    )
    for scores, expected in (({"probe/a": 0.25, "probe/b": 0.75}, 0.75), (None, 1.0)):
        given = answer(*decisions, scores=scores, shows=scores is not None)
        _, loud = CONTRACTS["moderations"].answer(given)["results"]
        assert loud["categories"] == {
            "policy/one": True,
            "policy/two": False,
            "policy/three": False,
        }
        assert loud["flagged"] is any(loud["categories"].values())
        assert loud["category_scores"]["policy/one"] == expected
        assert loud["category_scores"]["policy/three"] == (0.75 if scores else 0.0)
    shadow = answer(decision("two", "would_block", "shadow"), scores=None, shows=True)
    assert CONTRACTS["moderations"].answer(shadow)["results"][1]["flagged"] is False
    assert CONTRACTS["detectors"].answer(shadow) == [[], []]
    assert CONTRACTS["litellm"].answer(shadow) == {"action": "NONE"}
    assert CONTRACTS["bedrock"].answer(shadow)["action"] == "NONE"
    assert CONTRACTS["nemo"].answer(shadow)["status"] == "success"


def test_what_is_not_scored_of_an_answer_is_refused() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = {"role": "assistant", "content": "ok", "tool_calls": [call]}
    turns = [{"role": "user", "content": "a"}, said]
    for name, body in (("check", {"input": {"messages": turns}}), ("nemo", {"messages": turns})):
        with pytest.raises(RequestError, match="tool_calls, which are not scored"):
            CONTRACTS[name].read(asked(body))  # type: ignore[index]
    [earlier] = CONTRACTS["check"].read(asked({"input": {"messages": [*turns, turns[0]]}})).inputs
    assert earlier.messages[1]["tool_calls"][0]["function"]["name"] == "f"


def test_an_answer_that_is_a_refusal_alone_is_scored_as_text() -> None:
    for content in (None, ""):
        turn = {"role": "assistant", "content": content, "refusal": "No."}
        turns = [{"role": "user", "content": "a"}, turn]
        [read] = CONTRACTS["check"].read(asked({"input": {"messages": turns}})).inputs
        assert read.messages[-1]["content"] == "No."


def test_parts_of_all_messages_are_bounded() -> None:
    turn = {"role": "user", "content": [{"type": "text", "text": "a"}] * 2}
    body = {"input": [{"messages": [turn]}, {"messages": [turn]}]}
    CONTRACTS["check"].read(asked(body, Limits(max_content_parts=4)))
    with pytest.raises(RequestError, match=r"limits\.max_content_parts"):
        CONTRACTS["check"].read(asked(body, Limits(max_content_parts=3)))


def test_moderations_take_texts_or_parts_and_not_both() -> None:
    part = {"type": "text", "text": "a"}
    read = CONTRACTS["moderations"].read(asked({"input": [part, part]}))
    assert [each.messages[0]["content"] for each in read.inputs] == ["a\na"]
    with pytest.raises(RequestError, match="texts and parts"):
        CONTRACTS["moderations"].read(asked({"input": [part, "b"]}))


@pytest.mark.parametrize(
    ("source", "kinds", "scored"),
    [
        ("INPUT", ["query"], True),
        ("INPUT", ["query", "guard_content"], True),
        ("INPUT", ["grounding_source"], False),
        ("INPUT", ["grounding_source", "guard_content"], True),
        ("OUTPUT", ["query"], False),
        ("OUTPUT", ["guard_content"], True),
        ("OUTPUT", ["grounding_source", "guard_content"], True),
        ("OUTPUT", [], True),
    ],
)
def test_bedrocks_qualifiers_let_no_text_through_unscored(
    source: str, kinds: list[str], scored: bool
) -> None:
    block = {"text": {"text": "a", "qualifiers": kinds}}
    other = {"text": {"text": "b", "qualifiers": []}}

    def read(*blocks: dict[str, Any]) -> list[str]:
        body = {"source": source, "content": list(blocks)}
        found = CONTRACTS["bedrock"].read(asked(body)).inputs
        return [each.messages[-1]["content"] for each in found]

    assert read(block, other) == (["a", "b"] if scored else ["b"])
    if not scored:
        with pytest.raises(RequestError, match="want a text to be scored"):
            read(block)


def test_nemo_scores_the_question_before_several_turns_of_the_assistant() -> None:
    turns = [{"role": "user", "content": "a"}] + [{"role": "assistant", "content": "b"}] * 2
    question, said = CONTRACTS["nemo"].read(asked({"messages": turns})).inputs
    assert (question.direction, question.messages[-1]["content"]) == ("prompt", "a")
    assert (said.direction, len(said.messages)) == ("answer", 3)


def test_scores_are_refused_without_the_grant() -> None:
    body = {"input": "a", "scores": "summary"}
    with pytest.raises(RequestError) as refused:
        CONTRACTS["check"].read(asked(body, sees=False))
    assert refused.value.status == 403
    assert CONTRACTS["check"].read(asked({"input": "a"}, sees=False)).wants_scores


def test_openais_names_of_models_stand_for_the_served_one_and_no_other_does() -> None:
    def model(name: str | None) -> str | None:
        return CONTRACTS["moderations"].read(asked({"input": "a", "model": name})).model

    assert model("omni-moderation-latest") is None and model(None) is None
    assert model("small:plain") == "small:plain" and model("nowhere") == "nowhere"


def test_a_conversation_that_an_assistant_ends_is_an_answer() -> None:
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "user", "content": "b"},
    ]
    [asks] = CONTRACTS["check"].read(asked({"input": {"messages": turns}})).inputs
    assert asks.direction == "prompt"
    assert asks.messages[2] == {"role": "assistant", "content": "No."}
    said = [*turns, {"role": "assistant", "content": [{"type": "text", "text": "c"}]}]
    for item in ({"messages": said}, {"messages": turns, "answer": "c"}):
        [answers] = CONTRACTS["check"].read(asked({"input": item})).inputs
        assert answers.direction == "answer"
        assert answers.messages[-1] == {"role": "assistant", "content": "c"}
    with pytest.raises(RequestError, match="one answer"):
        CONTRACTS["check"].read(asked({"input": {"messages": said, "answer": "d"}}))
