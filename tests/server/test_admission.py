"""What may go on to vLLM, what is written into it, and what is refused with which words."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from typing import Any

import pytest
from vllm.entrypoints.openai.models.protocol import LoRAModulePath

from pilothouse.artifacts.catalog import Catalog
from pilothouse.errors import ConfigError, RequestError
from pilothouse.policy.endpoint_names import EndpointName
from pilothouse.server.admission import Admission
from pilothouse.server.app import adapter_names, refuse_shadowed_profiles
from pilothouse.server.endpoints.registry import ENDPOINTS
from pilothouse.server.refused_fields import Guard, refuse_bypass
from pilothouse.server.request_schema import RequestFields, Unreadable
from pilothouse.signed_request import SIGNED_REQUEST_KEY, verify_request
from pilothouse.term import SteerTerm
from tests.support.artifacts.tiny_sae import FEATURE, LABEL, MAX_ACT
from tests.support.engines.catalogs import policy, probe, readout, vector
from tests.support.engines.harness import make_plan, random_rows
from tests.support.servers import app_parts as builders
from tests.support.servers.app_parts import KEY, body_of, tiny_plan

NUDGE = {"vector": "nudge", "scale": 0.5}
TIDE = {"sae": "topics", "feature": FEATURE, "value": 90.0}


def admit(change: dict[str, Any], **grants: Any) -> tuple[Any, dict[str, Any]]:
    body = body_of("chat") | change
    return builders.admit(body, **grants), body


def refusal(change: dict[str, Any], **grants: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        admit(change, **grants)
    return caught.value


def test_the_body_that_goes_on_is_sealed_and_has_our_field_no_more() -> None:
    admitted, body = admit({"pilothouse": {"steer": [NUDGE]}, "vllm_xargs": {"mine": 1}})
    assert "pilothouse" not in body and body["vllm_xargs"]["mine"] == 1
    signed = verify_request(body["vllm_xargs"][SIGNED_REQUEST_KEY], KEY)
    assert signed == admitted.signed
    assert signed.revision == tiny_plan().revision
    assert [(term.vector, term.scale, term.on) for term in signed.steer] == [
        ("nudge", 0.5, "output")
    ]


def test_features_go_on_as_they_were_asked_for() -> None:
    asked = TIDE | {"feature": LABEL, "value": 90.0 / MAX_ACT, "unit": "max_act", "on": "all"}
    for term in (asked, TIDE | {"feature": [FEATURE, 3], "op": "floor", "above": 0.5}):
        _, body = admit({"pilothouse": {"steer": [term]}})
        [signed] = verify_request(body["vllm_xargs"][SIGNED_REQUEST_KEY], KEY).steer
        assert signed == SteerTerm.model_validate(term)


def test_every_request_has_its_own_decision() -> None:
    assert admit({})[0].decision_id != admit({})[0].decision_id


def test_a_profile_brings_its_steering_its_policies_and_the_served_name() -> None:
    admitted, body = admit({"model": "small:output-refusal"})
    assert body["model"] == "small" and admitted.asked_model == "small:output-refusal"
    assert [term.scale for term in admitted.signed.steer] == [0.001]
    applied = {each.name: each.enforced for each in admitted.signed.policies}
    assert applied == {"output-refusal": True, "watch": False}


def test_a_clients_steering_comes_on_top_of_the_profiles() -> None:
    admitted, _ = admit({"model": "small:plain", "pilothouse": {"steer": [NUDGE]}})
    assert [term.scale for term in admitted.signed.steer] == [0.001, 0.5]


def test_steering_below_a_probe_is_refused_where_an_enforced_policy_holds_alone() -> None:
    rule = {"id": "r", "phase": "output", "when": "x >= 0.5", "then": {"action": "block"}}
    guard = policy("guard", [rule], {"x": "q/now"}, match={"profiles": ["m:guarded"]})
    [row] = random_rows(1, 1)
    loaded = Catalog(
        vectors={"v": vector("v", (0, 2), norm=3.0)},
        probes={"q": probe("q", {1: row}, {"now": readout("output")})},
    )
    plan = make_plan(loaded, (guard,), profiles={"m:guarded": {"steer": []}})
    door = Admission(plan, ("m",), KEY)
    steer = {"pilothouse": {"steer": [{"vector": "v", "scale": 0.1, "layers": [0]}]}}
    assert builders.admit(body_of("chat") | {"model": "m"} | steer, door=door).signed.steer
    with pytest.raises(RequestError, match="enforced policy 'guard'"):
        builders.admit(body_of("chat") | {"model": "m:guarded"} | steer, door=door)
    assert not builders.admit(body_of("chat") | {"model": "m:guarded"}, door=door).signed.steer


def test_a_name_that_is_no_profile_is_vllms_to_judge() -> None:
    admitted, body = admit({"model": "small:nothing"})
    assert body["model"] == "small:nothing" and admitted.asked_model is None


@pytest.mark.parametrize(
    ("field", "grant"),
    [
        ({"steer": [NUDGE]}, "may_steer"),
        ({"probes": ["vary"]}, "may_see_scores"),
        ({"scores": "summary"}, "may_see_scores"),
    ],
)
def test_what_was_not_granted_is_403_with_the_remedy(field: Any, grant: str) -> None:
    error = refusal({"pilothouse": field}, **{grant: False})
    assert error.status == 403 and "auth.client_" in str(error)
    assert admit({"pilothouse": field})[0].signed.revision


def test_scores_come_by_themselves_only_to_those_who_may_see_them() -> None:
    assert admit({})[0].signed.scores == "summary"
    assert admit({}, may_see_scores=False)[0].signed.scores == "none"
    assert admit({"pilothouse": {"scores": "none"}})[0].signed.scores == "none"


@pytest.mark.parametrize(
    ("field", "param", "words"),
    [
        ({"steer": [{"vector": "x", "scale": 1}]}, "pilothouse.steer.0.vector", "['nudge']"),
        ({"steer": [NUDGE | {"layers": [1]}]}, "pilothouse.steer.0.layers", "[3]"),
        ({"steer": [NUDGE | {"scale": "4"}]}, "pilothouse.steer.0.scale", "got '4'"),
        ({"steer": [NUDGE | {"scale": True}]}, "pilothouse.steer.0.scale", "got True"),
        ({"steer": [NUDGE | {"opp": "add"}]}, "pilothouse.steer.0.opp", "unknown field"),
        (
            {"steer": [NUDGE | {"op": "ablate"}]},
            "pilothouse.steer.0.op",
            "available are ['add', 'feature']; the operator of the server lists more under "
            "taps.operators",
        ),
        (
            {"steer": [NUDGE | {"restore_norm": True}]},
            "pilothouse.steer.0.restore_norm",
            "available are ['add', 'feature']",
        ),
        (
            {"steer": [NUDGE | {"restore_norm": "if_shorter"}]},
            "pilothouse.steer.0.restore_norm",
            "if_longer",
        ),
        (
            {"steer": [NUDGE | {"unit": "token"}]},
            "pilothouse.steer.0.unit",
            "available are ['add', 'feature']",
        ),
        (
            {"steer": [NUDGE | {"op": "slerp"}]},
            "pilothouse.steer.0.op",
            "available are ['add', 'feature']",
        ),
        (
            {"steer": [NUDGE | {"positions": {"first": 2, "last": 2}}]},
            "pilothouse.steer.0.positions",
            "want exactly one of",
        ),
        ({"steer": [{"scale": 1}]}, "pilothouse.steer.0", "vector: missing"),
        ({"steer": [NUDGE | {"on": "prompt", "scale": 60}]}, "pilothouse.steer", "max_norm_ratio"),
        ({"steer": [NUDGE | {"scale": 1e308}]}, "pilothouse.steer", "lower the scale"),
        ({"steer": [NUDGE] * 65}, "pilothouse.steer", "limits.max_terms"),
        ({"steer": NUDGE}, "pilothouse.steer", "got {"),
        ({"steer": [TIDE | {"sae": "x"}]}, "pilothouse.steer.0.sae", "are ['topics']"),
        ({"steer": [TIDE | {"layers": [1]}]}, "pilothouse.steer.0.layers", "[3]"),
        ({"steer": [TIDE | {"feature": 48}]}, "pilothouse.steer", "got feature 48, want 0 to 47"),
        ({"steer": [TIDE | {"feature": "tide"}]}, "pilothouse.steer", "near are ['tides'"),
        ({"steer": [TIDE | {"feature": "boats"}]}, "pilothouse.steer", "of features [9, 10]"),
        ({"steer": [TIDE | {"feature": "7"}]}, "pilothouse.steer", "no label is '7'"),
        ({"steer": [TIDE | {"vector": "nudge"}]}, "pilothouse.steer.0", "want one of them"),
        ({"steer": [NUDGE | {"feature": 3}]}, "pilothouse.steer.0", "feature: is of SAE features"),
        ({"steer": [NUDGE | {"unit": "max_act"}]}, "steer", "is of SAE features"),
        ({"steer": [NUDGE | {"op": "steer"}]}, "steer", "op of 'nudge': got 'steer'"),
        ({"steer": [TIDE | {"op": "reflect"}]}, "pilothouse.steer", "op: got 'reflect'"),
        ({"steer": [TIDE | {"restore_norm": True}]}, "pilothouse.steer.0.restore_norm", "are ["),
        ({"steer": [TIDE | {"value": 600.0}]}, "pilothouse.steer", "max_norm_ratio"),
        ({"steer": [TIDE | {"value": 1e300}]}, "pilothouse.steer", "the edit reaches inf"),
        ({"steer": [TIDE | {"value": 2.0, "above": 1e39}]}, "pilothouse.steer", "reaches inf"),
        ({"steer": [TIDE, TIDE | {"value": 2.0}]}, "pilothouse.steer", "is edited 2 times"),
        ({"steer": [TIDE | {"feature": list(range(9))}]}, "pilothouse.steer", "9 rows, 8 reserved"),
        (
            {"steer": [TIDE | {"feature": [0] * 65}]},
            "pilothouse.steer.0.feature",
            "1 to 64 numbers",
        ),
        ({"probes": ["x"]}, "pilothouse.probes.0", "'always'"),
        ({"scores": "all"}, "pilothouse.scores", "got 'all'"),
        ([], "pilothouse", "want an object"),
    ],
)
def test_a_wrong_field_says_where_what_and_what_instead(field: Any, param: str, words: str) -> None:
    error = refusal({"pilothouse": field})
    assert (error.status, error.param) == (400, param)
    assert words in str(error)


def test_edits_that_cancel_each_other_are_measured_as_their_sum() -> None:
    steer = [NUDGE | {"scale": 50}, NUDGE | {"scale": -50}]
    assert len(admit({"pilothouse": {"steer": steer}})[0].signed.steer) == 2


@pytest.mark.parametrize("key", ["pilothouse_sealed", "PILOTHOUSE", "pilothouse"])
def test_reserved_names_in_vllm_xargs_are_refused(key: str) -> None:
    assert refusal({"vllm_xargs": {key: "x"}}).param == f"vllm_xargs.{key}"


def test_an_alias_is_no_way_around_a_policy() -> None:
    plan = tiny_plan()
    match = plan.policies[0].spec.match.model_copy(
        update={"models": ("small",), "profiles": ("*",)}
    )
    spec = plan.policies[0].spec.model_copy(update={"match": match})
    policy = plan.policies[0].model_copy(update={"spec": spec})
    aliased = Admission(replace(plan, policies=(policy,)), ("other", "small"), KEY)
    admitted = builders.admit(body_of("chat") | {"model": "other"}, door=aliased)
    assert [each.enforced for each in admitted.signed.policies] == [True]


@pytest.mark.parametrize("pattern", ["small", "tuned", "*"])
def test_a_policy_holds_for_an_adapter_by_its_own_or_by_any_served_name(pattern: str) -> None:
    plan = tiny_plan()
    update = {"models": (pattern,), "profiles": ("*",)}
    match = plan.policies[0].spec.match.model_copy(update=update)
    spec = plan.policies[0].spec.model_copy(update={"match": match})
    policy = plan.policies[0].model_copy(update={"spec": spec})
    door = Admission(replace(plan, policies=(policy,)), ("small",), KEY)
    body = body_of("chat") | {"model": "tuned"}
    admitted = builders.admit(body, door=door)
    assert [each.enforced for each in admitted.signed.policies] == [True]
    assert body["model"] == "tuned" and admitted.asked_model is None
    others = builders.admit(body_of("chat") | {"model": "small"}, door=door)
    assert bool(others.signed.policies) == (pattern != "tuned")


def test_a_profile_with_the_name_of_an_adapter_stops_the_start() -> None:
    plan = tiny_plan()
    args = Namespace(lora_modules=[LoRAModulePath(name="small:plain", path="x")])
    with pytest.raises(ConfigError, match=r"small:plain is a LoRA adapter's name.*--lora-modules"):
        refuse_shadowed_profiles(plan, ("small",), adapter_names(args))
    refuse_shadowed_profiles(plan, ("small",), adapter_names(Namespace(lora_modules=None)))


def read(change: Any) -> RequestFields:
    endpoint: EndpointName = "completions" if "prompt" in change else "chat"
    return ENDPOINTS[endpoint].read(body_of(endpoint) | change)


REGEX = {"structured_outputs": {"regex": "so be it.*"}}
ASSISTANT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("body", "enforced", "ends_output"),
    [
        ({"prompt": "a", "prompt_embeds": "abc"}, True, False),
        ({"chat_template": "x"}, True, False),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, True, False),
        ({"prompt_logprobs": 0}, False, True),
        ({"prompt": "a", "echo": True, "logprobs": 0}, False, True),
        ({"messages": ASSISTANT, "continue_final_message": True}, False, True),
        ({"messages": ASSISTANT, "add_generation_prompt": False}, False, True),
        ({"messages": ASSISTANT, "echo": True}, False, True),
        ({"logprobs": True, "logprob_token_ids": [5]}, False, True),
        ({"prompt": "a", "logprobs": 1, "logit_bias": {"5": -100}}, False, True),
        ({"prompt": "a", "logprobs": 1, "bad_words": ["kelm"]}, False, True),
        ({"logprobs": True, "top_logprobs": 1, **REGEX}, False, True),
    ],
)
def test_a_bypass_is_refused_only_while_rules_could_be_passed_by(
    body: Any, enforced: bool, ends_output: bool
) -> None:
    fields = read(body)
    refuse_bypass(fields, Guard())
    with pytest.raises(RequestError):
        refuse_bypass(fields, Guard(enforced, ends_output))


@pytest.mark.parametrize(
    "body",
    [
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"messages": ASSISTANT},
        {"prompt": "a", "logprobs": 5},
        {"prompt": "a", "logprobs": 0, "logit_bias": {"5": -100}},
        {"logprobs": True, **REGEX},
        {"prompt": "a", "echo": True},
        {"prompt_logprobs": None, "use_beam_search": False, "kv_transfer_params": None},
    ],
)
def test_what_passes_nothing_by_is_left_alone(body: Any) -> None:
    refuse_bypass(read(body), Guard(enforced=True, ends_output=True))


@pytest.mark.parametrize(
    "body",
    [
        {"use_beam_search": 0},
        {"use_beam_search": "false"},
        {"chat_template": ""},
        {"kv_transfer_params": {}},
        {"ec_transfer_params": {}},
        {"chat_template_kwargs": {"tools": None}},
        {"prompt_embeds": ""},
        {"prompt": "a", "prompt_embeds": ""},
        {"vllm_xargs": {"kv_transfer_params": ""}},
    ],
)
def test_what_vllm_reads_as_off_is_no_offence(body: Any) -> None:
    refuse_bypass(read(body), Guard(enforced=True, ends_output=True))


@pytest.mark.parametrize(
    "body",
    [
        {"prompt_logprobs": False},
        {"prompt": "a", "prompt_logprobs": False},
        {"prompt": "a", "echo": "true", "logprobs": False},
        {"echo": True},
        {"vllm_xargs": {"kv_transfer_params": "x"}},
        {"vllm_xargs": {"ec_transfer_params": "x"}},
        {"use_beam_search": "yes"},
        {"continue_final_message": 1, "messages": ASSISTANT},
        {"add_generation_prompt": "no", "messages": ASSISTANT},
    ],
)
def test_what_vllm_reads_as_on_is_refused_however_it_is_written(body: Any) -> None:
    with pytest.raises(RequestError):
        refuse_bypass(read(body), Guard(enforced=True, ends_output=True))


@pytest.mark.parametrize(("endpoint", "n"), [("chat", 200.0), ("completions", "200")])
def test_the_bound_on_choices_counts_what_vllm_would_make(endpoint: Any, n: Any) -> None:
    with pytest.raises(RequestError, match="128") as caught:
        builders.admit(body_of(endpoint) | {"n": n}, endpoint)
    assert caught.value.param == "n"


def test_a_body_that_vllm_refuses_is_not_sealed() -> None:
    body = body_of("chat") | {"n": "many"}
    with pytest.raises(Unreadable):
        builders.admit(body)
    assert "vllm_xargs" not in body


def test_prompts_times_choices_are_bounded() -> None:
    body = body_of("completions") | {"prompt": ["a"] * 20, "n": 20}
    with pytest.raises(RequestError, match="128"):
        builders.admit(body, "completions")


@pytest.mark.parametrize(
    ("prompt", "expected"), [("a", 1), (["a", "b"], 2), ([1, 2], 1), ([[1], [2]], 2)]
)
def test_prompts_are_counted_as_vllm_counts_them(prompt: Any, expected: int) -> None:
    body = body_of("completions") | {"prompt": prompt}
    assert builders.admit(body, "completions").num_prompts == expected


def test_the_rewritten_body_is_json() -> None:
    _, body = admit({"pilothouse": {"steer": [NUDGE]}})
    assert json.loads(json.dumps(body)) == body
