"""Every bound on a request: refused one above, taken at it, and none without a case here."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from pilothouse.config import load_config
from pilothouse.errors import ConfigError, RequestError
from pilothouse.limits import (
    MOST_CHOICES,
    SMALLEST_TEXT_KIB,
    EngineSize,
    Limits,
    RequestLimits,
    ServedLimits,
)
from pilothouse.policy.endpoint_names import EndpointName
from pilothouse.server import body as body_module
from pilothouse.server import request_schema
from pilothouse.server.admission import refuse_heavy_choices
from pilothouse.server.answers import encode, error_body, request_error_body
from pilothouse.server.body import LONG_BODY, encoded, parsed, read_body
from pilothouse.server.guided_output import Cost, cost
from pilothouse.server.request_schema import RequestFields, parse_field
from tests.support.models.tiny_model import D_MODEL
from tests.support.servers.app_parts import admission, admit, body_of, caller, tiny_plan

Made = Callable[[int], dict[str, Any]]


def steer(count: int, **more: Any) -> dict[str, Any]:
    terms = [{"vector": "nudge", "scale": 0.001 * (i + 1)} | more for i in range(count)]
    return {"pilothouse": {"steer": terms}}


def nested(depth: int) -> Any:
    return "a" if depth == 0 else [nested(depth - 1)]


def guide(**fields: Any) -> dict[str, Any]:
    return {"structured_outputs": fields}


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

CASES: dict[str, tuple[int, EndpointName, Made]] = {
    # a bound, and a body that has as many as it is asked for
    "max_json_depth": (5, "chat", lambda n: {"zz": nested(n - 1)}),
    "max_json_values": (80, "chat", lambda n: {"zz": [*["a"] * 20], "yy": ["a"] * (n - 27)}),
    "max_entries": (40, "chat", lambda n: {"zz": ["a"] * n}),
    "max_token_ids": (32, "completions", lambda n: {"prompt": [1] * n}),
    "max_messages": (3, "chat", lambda n: {"messages": body_of("chat")["messages"] * n}),
    "max_content_parts": (
        3,
        "chat",
        lambda n: {"messages": [{"role": "user", "content": [{"type": "text"}] * n}]},
    ),
    "max_tools": (2, "chat", lambda n: {"tools": [TOOL] * n}),
    "max_stop_strings": (2, "chat", lambda n: {"stop": ["a"] * n}),
    "max_bad_words": (2, "chat", lambda n: {"bad_words": ["a"] * n}),
    "max_logit_bias": (2, "chat", lambda n: {"logit_bias": {str(i): 1 for i in range(n)}}),
    "max_choice_token_ids": (
        12,
        "completions",
        lambda n: (
            {"n": 2, "allowed_token_ids": [3] * (n // 4), "stop_token_ids": [4] * (n // 4)}
            if n % 4 == 0
            else {"logit_bias": {str(i): 1 for i in range(n)}}
        ),
    ),
    "max_choice_logprobs": (
        6,
        "completions",
        lambda n: {"logprobs": n // 2, "n": 2} if n % 2 == 0 else {"logprobs": n},
    ),
    "max_vllm_xargs": (2, "chat", lambda n: {"vllm_xargs": {str(i): 1 for i in range(n)}}),
    "max_template_kwargs": (
        2,
        "chat",
        lambda n: {"chat_template_kwargs": {str(i): 1 for i in range(n)}},
    ),
    "max_guide_repeats": (3, "chat", lambda n: guide(regex="a*" * n)),
    "max_guide_states": (9, "chat", lambda n: guide(json={"pattern": f"a{{0,{n + 1}}}"})),
    "max_guide_depth": (3, "chat", lambda n: guide(regex="(" * n + "a" + ")" * n)),
    "max_guide_properties": (
        2,
        "chat",
        lambda n: guide(json=json.dumps({"properties": {str(i): {} for i in range(n)}})),
    ),
    "max_guide_lengths": (
        2,
        "chat",
        lambda n: guide(json={"items": [{"maxLength": i} for i in range(n)]}),
    ),
    "max_choices": (3, "completions", lambda n: {"n": n}),
    "max_probes": (1, "chat", lambda n: {"pilothouse": {"probes": ["vary", "never"][:n]}}),
    "max_terms": (2, "chat", steer),
    "max_positions": (
        5,
        "chat",
        lambda n: steer(1, on="all", positions={"indices": list(range(n))}),
    ),
    "max_request_programs": (
        5,
        "chat",
        lambda n: steer(n - 1, on="prompt", positions={"last": 2}),
    ),
    "max_edit_values": (2 * D_MODEL, "chat", lambda n: steer(-(-n // D_MODEL))),
}
ELSEWHERE = {
    "max_body_kib",
    "max_text_kib",
    "max_guide_kib",
    "max_schema_kib",
    "max_prompt_logprobs",
    "max_segments",
    "max_items",
    "max_check_texts",
}
"""Sizes and logprobs have tests of their own here, stretches one beside the programs, items
one beside their endpoint, texts of a check one beside its contracts."""


def take(limits: ServedLimits | Limits, endpoint: EndpointName, body: dict[str, Any]) -> None:
    """Everything the gate does with a body before it hands it on."""
    plan = tiny_plan()
    own = Limits.model_validate(
        {"max_norm_ratio": 2.0} | limits.model_dump(exclude_unset=True, exclude_none=True)
    )
    door = admission(replace(plan, body=plan.body.model_copy(update={"limits": own})))
    raw = json.dumps(body_of(endpoint) | body).encode()
    admit(parsed(raw, door.limits), endpoint, door)


def test_every_bound_has_a_case() -> None:
    assert set(CASES) | ELSEWHERE == set(RequestLimits.model_fields)


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_bound_is_taken_at_and_refused_one_above(name: str) -> None:
    most, endpoint, made = CASES[name]
    limits = Limits.model_validate({name: most})
    take(limits, endpoint, made(most))
    with pytest.raises(RequestError) as refused:
        take(limits, endpoint, made(most + 1))
    error = refused.value
    assert error.status == 400
    assert error.param
    for word in ("got", f"want at most {most}", f"(limits.{name})", "ask the operator"):
        assert word in str(error)
    if name != "max_edit_values":  # which is counted in whole vectors
        take(Limits.model_validate({name: most + 1}), endpoint, made(most + 1))


@pytest.mark.parametrize(
    "body",
    [
        {"echo": True, "logprobs": 5},
        {"prompt_logprobs": 5},
        {"prompt_logprobs": 5.0},
        {"echo": 1, "logprobs": 5.0},
    ],
)
def test_the_prompts_logprobs_are_bounded_however_they_are_asked_for(body: dict[str, Any]) -> None:
    long = {"prompt": "a" * 20_000}
    with pytest.raises(RequestError, match=r"limits\.max_prompt_logprobs"):
        take(Limits(), "completions", body | long)
    take(Limits(), "completions", body)
    take(Limits(), "completions", {"logprobs": 5} | long)


@pytest.mark.parametrize("body", [{"echo": True, "logprobs": 1}, {"prompt_logprobs": 1}])
def test_one_logprob_of_each_token_is_taken_of_a_batch(body: dict[str, Any]) -> None:
    take(Limits(), "completions", body | {"prompt": ["a" * 2000] * 16, "max_tokens": 1})


def test_every_logprob_of_a_prompt_is_too_many() -> None:
    with pytest.raises(RequestError, match="got all of each token"):
        take(Limits(), "completions", {"prompt_logprobs": -1})


def test_prompts_in_a_list_are_bounded_one_by_one_and_other_texts_together() -> None:
    limits = Limits(max_text_kib=1, max_body_kib=64).served()

    def sent(endpoint: EndpointName, body: dict[str, Any]) -> None:
        parsed(json.dumps(body_of(endpoint) | body).encode(), limits)

    sent("completions", {"prompt": ["a" * 1024] * 9})
    sent("chat", {"response_format": {"json_schema": "a" * 2000}})
    with pytest.raises(RequestError, match=r"^prompt: got 2 KiB of text, .*limits\.max_text_kib"):
        sent("completions", {"prompt": ["a", "a" * 1025]})
    message = {"role": "user", "content": "a" * 400}
    sent("chat", {"messages": [message]})
    for body in ({"messages": [message] * 3}, {"prompt": "a" * 1024}, {"a" * 1025: 1}):
        with pytest.raises(RequestError, match=r"^body: got 2 KiB of text, .*limits\.max_text"):
            sent("chat", body)


def test_a_guide_is_bounded_by_its_text() -> None:
    limits = Limits(max_guide_kib=1, max_schema_kib=2)
    take(limits, "chat", guide(regex="a" * 1024))
    for over in (guide(regex="a" * 1025), guide(choice=["a" * 1024])):
        with pytest.raises(RequestError, match=r"got 2 KiB, want at most 1 KiB \(limits.max_guide"):
            take(limits, "chat", over)


def test_schemas_and_forced_tools_are_bounded_as_a_whole() -> None:
    limits = Limits(max_schema_kib=1)
    called = {"name": "f", "parameters": {"description": "a" * 1024}}
    forced = {"tools": [{"type": "function", "function": called}], "tool_choice": "required"}
    for field, over in (
        ("tools", forced),
        ("structured_outputs", guide(json={"description": "a" * 1024})),
    ):
        with pytest.raises(RequestError, match=rf"^{field}: got 2 KiB, .*limits\.max_schema_kib"):
            take(limits, "chat", over)
    take(limits, "chat", forced | {"tool_choice": "auto"})


def test_a_pattern_that_many_fields_have_counts_once() -> None:
    uuid = {"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"}
    take(Limits(), "chat", guide(json={"properties": {f"id{i}": uuid for i in range(200)}}))


@pytest.mark.parametrize("told", [True, False], ids=["announced", "in pieces"])
def test_a_body_is_bounded_however_it_comes(told: bool) -> None:
    limits = Limits(max_body_kib=1).served()

    def read(size: int) -> bytes | None:
        pieces = [b"a" * size] if told else [b"a"] * size
        sent: Iterator[Message] = iter(
            {"type": "http.request", "body": each, "more_body": i + 1 < len(pieces)}
            for i, each in enumerate(pieces)
        )
        headers = [(b"content-length", str(size).encode())] if told else []

        async def receive() -> Message:
            return next(sent)

        return asyncio.run(read_body({"type": "http", "headers": headers}, receive, limits))

    assert read(1024) == b"a" * 1024
    with pytest.raises(RequestError, match=r"limits\.max_body_kib") as refused:
        read(1025)
    assert refused.value.status == 413


@pytest.mark.parametrize(
    "text",
    [
        '{"zz": [' + "[]," * 9000 + "[]]}",
        '{"zz": "\\"[", "yy": [' + "{}," * 9000 + "{}]}",
        '{"zz": [' + "1," * 60_000 + "1]}",
    ],
    ids=["lists", "behind a string", "numbers"],
)
def test_what_is_crowded_is_refused_before_it_is_parsed(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_: str) -> Any:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(json, "loads", never)
    with pytest.raises(RequestError, match=r"limits\.max_"):
        parsed(text.encode(), Limits().served())


@pytest.mark.parametrize(("size", "aside"), [(1000, False), (LONG_BODY, True)])
def test_a_long_body_is_parsed_beside_the_event_loop(
    size: int, aside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def watched(raw: bytes, limits: ServedLimits) -> dict[str, Any]:
        threads.append(threading.current_thread())
        return parsed(raw, limits)

    monkeypatch.setattr(body_module, "parsed", watched)
    raw = json.dumps({"messages": "a" * size}).encode()
    limits = Limits(max_text_kib=128).served()
    assert asyncio.run(body_module.parsed_aside(raw, limits)) == {"messages": "a" * size}
    assert [each is not threading.main_thread() for each in threads] == [aside]


def test_brackets_in_a_text_are_no_lists() -> None:
    content = "[{," * 9000 + '\\"' * 5 + "\\\\"
    raw = f'{{"messages": [{{"role": "user", "content": "{content}"}}]}}'
    assert parsed(raw.encode(), Limits().served())["messages"][0]["content"].startswith("[{,")


def test_bounds_follow_from_what_is_served() -> None:
    small, large = (Limits().served(EngineSize(*each)) for each in ((512, 16), (1 << 17, 1024)))
    assert (small.max_body_kib, large.max_body_kib) == (64, 2048)
    assert (small.max_text_kib, large.max_text_kib) == (SMALLEST_TEXT_KIB, 2048)
    assert (small.max_choices, large.max_choices) == (15, MOST_CHOICES)
    assert (small.max_messages, large.max_messages) == (256, 1024)
    assert (small.max_token_ids, large.max_token_ids) == (8192, 1 << 18)
    own = Limits(max_body_kib=7, max_choices=3).served(EngineSize(1024, 16))
    assert (own.max_body_kib, own.max_text_kib, own.max_choices) == (7, 7, 3)


def test_images_in_a_body_have_room_where_the_model_sees_them() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "a" * (1 << 20)}}
    raw = json.dumps({"messages": [{"role": "user", "content": [image]}]}).encode()
    limits = Limits().served(EngineSize(4096, 16, multimodal=True))
    assert len(raw) <= limits.max_body_bytes
    assert parsed(raw, limits)
    with pytest.raises(RequestError, match=r"limits\.max_text_kib"):
        parsed(raw, Limits().served(EngineSize(4096, 16)))


def test_a_prompt_of_token_ids_that_fills_the_context_is_taken() -> None:
    for context in (512, 1 << 17):
        limits = Limits().served(EngineSize(context, 16))
        raw = json.dumps({"prompt": [100_000] * context}).encode()
        assert len(raw) <= limits.max_body_bytes
        assert parsed(raw, limits)


def test_a_harness_may_send_its_batches() -> None:
    limits = Limits().served(EngineSize(8192, 256))
    for prompts in ([[150_000] * 2048] * 32, ["a" * 8192] * 64):
        raw = json.dumps({"prompt": prompts}).encode()
        assert len(raw) <= limits.max_body_bytes
        assert parsed(raw, limits)


@pytest.mark.parametrize("field", ["steer", "probes", "scores"])
def test_a_field_is_not_looked_into_for_who_has_no_grant(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_: Any) -> Any:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(request_schema.RequestField, "model_validate", never)
    raw = {field: [[]] * 100_000}
    with pytest.raises(RequestError, match=r"auth\.client_") as refused:
        parse_field(raw, caller(may_steer=False, may_see_scores=False), Limits())
    assert refused.value.status == 403


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("abc", (0, 0, 0)),
        ("(ab{3}){5}", (2, 18, 1)),
        ("a{2,4}", (1, 3, 0)),
        ("a{3,}", (1, 2, 0)),
        ("a*b+c?", (3, 0, 0)),
        ("((a))", (0, 0, 2)),
        (r"\(\*\{9\}", (0, 0, 0)),
        ("[*(){9}]", (0, 0, 0)),
        ("[]*]x", (1, 0, 0)),
        ("[[[*", (0, 0, 0)),
        ("a{x}", (0, 0, 0)),
        ("((a{100}){100}){100}", (3, 999_999, 2)),
        (")))(", (0, 0, 1)),
    ],
)
def test_a_regex_costs_its_repetitions(pattern: str, wanted: tuple[int, int, int]) -> None:
    assert cost(pattern) == Cost(*wanted)


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "[" a* b+ "]"',
        "# [ \\\nroot ::= a* b+",
        '// "\nroot: a* b+',
        "root ::= [[] a* b+",
    ],
)
def test_nothing_in_a_grammar_is_hidden(grammar: str) -> None:
    assert cost(grammar, is_grammar=True).repeats == 2
    limits = Limits(max_guide_repeats=1)
    with pytest.raises(RequestError, match=r"limits\.max_guide_repeats"):
        take(limits, "chat", guide(grammar=grammar))


@pytest.mark.parametrize(
    "text",
    ['{"a' + '\\"' * 12_000 + "[" * 9000, '{"a":"' + "\\\\" * 9000 + "[" * 9000 + "\\"],
    ids=["escaped quotes", "backslashes"],
)
def test_counting_takes_time_in_step_with_the_text(text: str) -> None:
    began = time.perf_counter()
    with pytest.raises(RequestError):
        parsed(text.encode(), Limits().served())
    cost("[" * 16_000)
    cost("(" * 16_000 + ")" * 16_000)
    cost("{" * 16_000, is_grammar=True)
    for unclosed in ("{" + " " * 16_000, "{ " * 8000, "{1," * 6000):
        cost(unclosed)
    assert time.perf_counter() - began < 0.5, "a square would take seconds"


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "limits.md"


def test_the_page_has_a_row_for_every_bound_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", PAGE.read_text(), re.MULTILINE))
    assert rows.keys() == RequestLimits.model_fields.keys()
    for name, told in rows.items():
        default = RequestLimits.model_fields[name].default
        assert default is None or told == str(default), name


@pytest.mark.parametrize("raw", [rb'{"a": "\ud800"}', rb'{"\udfff": 1}', b'{"a": NaN}'])
def test_a_body_that_cannot_be_sent_on_is_refused_in_words_that_can_be(raw: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        encoded(parsed(raw, Limits().served()))
    encode(request_error_body(refused.value))


def test_an_error_that_quotes_a_clients_words_can_be_sent() -> None:
    told = error_body("got \ud800 and \u65e5", status=400, param="x.\udfff")["error"]
    assert json.loads(encode(told))["message"] == "got \\ud800 and \u65e5"
    assert told["param"] == "x.\\udfff"


DEEP = 3000


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\npolicies: " + "[" * DEEP + "]" * DEEP,
        "\n".join(" " * i + "a:" for i in range(DEEP)),
        'version: 1\npolicies: ["a\\0b"]',
        'version: 1\nvectors: {x: {path: "a\\0b"}}',
        'version: 1\nsaes: {x: {path: "a\\0b"}}',
        'version: 1\nmodel_id: "\\ud800"',
        "version: 1\nlimits: {max_term: 3}",
    ],
    ids=[
        "lists",
        "mappings",
        "NUL in policies",
        "NUL in a vector",
        "NUL in an SAE",
        "surrogate",
        "unknown",
    ],
)
def test_a_file_that_nobody_writes_is_refused_like_any_other(text: str, tmp_path: Path) -> None:
    file = tmp_path / "pilothouse.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"pilothouse\.yaml") as refused:
        load_config(file)
    str(refused.value).encode()


def test_a_path_with_nul_is_refused_like_any_other() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(Path("a\0b"))


def test_a_request_that_is_asked_in_python_has_no_fields_of_http_to_count() -> None:
    refuse_heavy_choices(RequestFields(num_per_prompt=2), Limits().served())


def test_logprobs_of_named_tokens_count_as_logprobs() -> None:
    asked = {"logprobs": True, "top_logprobs": 1, "n": 2}
    take(Limits(max_choice_logprobs=6), "chat", asked | {"logprob_token_ids": [3, 4, 5]})
    with pytest.raises(RequestError, match=r"^logprob_token_ids: .*limits\.max_choice_logprobs"):
        take(Limits(max_choice_logprobs=6), "chat", asked | {"logprob_token_ids": [3, 4, 5, 6]})
