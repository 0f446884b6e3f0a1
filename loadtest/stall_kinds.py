"""The worst request of each kind that a server's limits allow, built from the limits it tells."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES = "/v1/responses"
TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"
CHECK = "/pilothouse/v1/check"
TEXT = "the tide is out and so it goes "
LONGEST_ANSWER = 64
SALT = "salt-of-one-request"
"""Stands in each body for one that is new with each request: no attacker sends a prompt twice, of
which the prefix cache would know the second."""
VLLMS_LOGPROBS = 20
VLLMS_STOPS = 4


@dataclass(frozen=True, slots=True)
class Attack:
    """One request, ready to be sent."""

    kind: str
    path: str
    body: bytes
    bound: str
    """The limit that it is at; empty where the work is vLLM's own and in bounds of the context."""

    def salted(self) -> bytes:
        """The body with a salt of its own for the prefix cache."""
        return self.body.replace(SALT.encode(), f"{secrets.randbits(64):019d}"[-19:].encode())


@dataclass(frozen=True, slots=True)
class Target:
    """What a server tells of itself."""

    model: str
    max_model_len: int
    limits: dict[str, int]
    vector: str | None
    """One that clients may steer with."""

    @property
    def room(self) -> int:
        """Bytes for a field that fills a body."""
        return self.limits["max_body_kib"] * 1024 - 256

    @property
    def text_room(self) -> int:
        """Characters for a text that fills what a body may say."""
        return self.limits["max_text_kib"] * 1024 - 256


def attacks(target: Target) -> Iterator[Attack]:
    """Every kind, at its bound."""
    made = (*_texts(target), *_structures(target), *_guides(target), *_answers(target))
    for kind, path, fields, bound in (*made, *_steering(target)):
        base = _base(target, path)
        raw = fields if isinstance(fields, bytes) else json.dumps(base | fields).encode()
        yield Attack(kind, path, raw, bound)


Made = tuple[str, str, dict[str, Any] | bytes, str]


def _base(target: Target, path: str) -> dict[str, Any]:
    short = {"model": target.model, "max_tokens": 1, "temperature": 1.0, "cache_salt": SALT}
    if path == CHAT:
        return short | {"messages": [{"role": "user", "content": "hi"}]}
    if path == COMPLETIONS:
        return short | {"prompt": "hi"}
    if path == RESPONSES:
        kept = {name: short[name] for name in ("model", "temperature", "cache_salt")}
        return kept | {"input": "hi", "max_output_tokens": 1}
    return {"model": target.model}


def _texts(target: Target) -> Iterator[Made]:
    room, body_room = target.text_room, target.room
    for name, text in (
        ("sentences", TEXT * (room // len(TEXT))),
        ("one word", "a" * room),
        ("escapes", "\u65e5" * min(room, body_room // 6)),
    ):
        yield f"tokenize {name}", TOKENIZE, {"prompt": text}, "max_text_kib"
        yield f"chat {name}", CHAT, {"messages": [_user(text)]}, "max_text_kib"
    count = min(target.limits["max_choices"], body_room // 1024)
    texts = [TEXT * ((body_room // count - 8) // len(TEXT))] * count
    yield "texts at once", COMPLETIONS, {"prompt": texts}, "max_body_kib"
    checked = target.limits["max_check_texts"]
    size = min(room // checked, 3 * target.max_model_len) - len(SALT) - 8
    # No two begin alike, so that none is found in the prefix cache.
    each = [f"{i} {SALT} " + TEXT * (size // len(TEXT)) for i in range(checked)]
    yield "texts of a check", CHECK, {"input": each}, "max_check_texts"
    ids = [7] * target.limits["max_token_ids"]
    yield "detokenize", DETOKENIZE, {"tokens": ids}, "max_token_ids"
    yield "token ids", COMPLETIONS, {"prompt": ids}, "max_token_ids"
    own = json.dumps({"model": target.model, "prompt": "hi", "pilothouse": {"steer": []}})
    empties = ",".join(["[]"] * ((target.room - 64) // 3))
    yield "steer: [[], [], ...]", COMPLETIONS, own.replace("[]", f"[{empties}]").encode(), "all"


def _structures(target: Target) -> Iterator[Made]:
    limit = target.limits.__getitem__
    fill = target.text_room // max(1, limit("max_messages")) - 20
    many = [_user("a" * max(1, fill))] * limit("max_messages")
    short = [_user("a")] * limit("max_messages")
    yield "short messages", CHAT, {"messages": short}, "max_messages"
    yield "messages", CHAT, {"messages": many}, "max_messages"
    yield "messages tokenized", TOKENIZE, {"messages": many}, "max_messages"
    yield "broken messages", CHAT, {"messages": [{}] * limit("max_messages")}, "max_messages"
    parts = [{"type": "text", "text": "a"}] * limit("max_content_parts")
    yield "content parts", CHAT, {"messages": [_user(parts)]}, "max_content_parts"
    broken = [{}] * limit("max_content_parts")
    yield "broken parts", CHAT, {"messages": [_user(broken)]}, "max_content_parts"
    count = limit("max_items")
    yield "items", RESPONSES, {"input": [_user("a")] * count}, "max_items"
    piece = {"type": "input_text", "text": "a"}
    yield "parts of an item", RESPONSES, {"input": [_user([piece] * (count - 1))]}, "max_items"
    yield "broken items", RESPONSES, {"input": [_user("a"), *[{}] * (count - 1)]}, "max_items"
    own_tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    yield "tools of a response", RESPONSES, {"tools": [own_tool] * limit("max_tools")}, "max_tools"
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    yield "tools", CHAT, {"tools": [tool] * limit("max_tools")}, "max_tools"
    yield "broken tools", CHAT, {"tools": [{}] * limit("max_tools")}, "max_tools"
    block = limit("max_entries")
    rows = [[[]] * min(block, limit("max_json_values") // 8 - 8) for _ in range(7)]
    yield "unknown field", COMPLETIONS, {"zzz": rows}, "max_json_values"
    yield "broken prompt", COMPLETIONS, {"prompt": [[]] * block}, "max_entries"
    yield (
        "mixed prompt",
        COMPLETIONS,
        {"prompt": list(islice(cycle([1, "a"]), block))},
        ("max_entries"),
    )
    deep: Any = "a"
    for _ in range(limit("max_json_depth") - 2):
        deep = {"a": deep}
    yield "depth", CHAT, {"chat_template_kwargs": deep}, "max_json_depth"
    for field, bound in (
        ("vllm_xargs", "max_vllm_xargs"),
        ("chat_template_kwargs", "max_template_kwargs"),
    ):
        yield field, CHAT, {field: {f"k{i}": i for i in range(limit(bound))}}, bound
    long = {"max_tokens": LONGEST_ANSWER, "ignore_eos": True, "n": limit("max_choices")}
    stops = [f"zq{i}" for i in range(min(VLLMS_STOPS, limit("max_stop_strings")))]
    yield "stop strings", COMPLETIONS, long | {"stop": stops}, "max_stop_strings"
    words = [f"zq{i} ab" for i in range(limit("max_bad_words"))]
    yield "bad words", COMPLETIONS, long | {"bad_words": words}, "max_bad_words"
    each = limit("max_choice_token_ids") // limit("max_choices")
    bias = {str(i): 1 for i in range(min(each, limit("max_logit_bias")))}
    yield "logit bias", COMPLETIONS, long | {"logit_bias": bias}, "max_choice_token_ids"
    alone = {"n": 1, "logit_bias": {str(i): 1 for i in range(limit("max_logit_bias"))}}
    yield "logit bias of one choice", COMPLETIONS, long | alone, "max_logit_bias"
    ids = [5 + i % 64 for i in range(min(each, limit("max_token_ids")))]
    yield "stop token ids", COMPLETIONS, long | {"stop_token_ids": ids}, "max_choice_token_ids"
    yield "allowed ids", COMPLETIONS, long | {"allowed_token_ids": ids}, "max_choice_token_ids"
    whole = {"n": 1, "allowed_token_ids": [5 + i % 64 for i in range(limit("max_token_ids"))]}
    yield "allowed ids of one choice", COMPLETIONS, long | whole, "max_token_ids"


def _guides(target: Target) -> Iterator[Made]:
    limit = target.limits.__getitem__
    repeats, states, depth = (limit(f"max_guide_{name}") for name in ("repeats", "states", "depth"))
    kib, most_lengths = limit("max_guide_kib") * 1024, limit("max_guide_lengths")
    long = {"max_tokens": LONGEST_ANSWER}

    def guide(**fields: Any) -> dict[str, Any]:
        return long | {"structured_outputs": fields}

    yield "regex repeats", CHAT, guide(regex="a*" * repeats), "max_guide_repeats"
    optional = "a?" * (repeats - 1) + "a" * repeats
    yield "regex optionals", CHAT, guide(regex=optional), "max_guide_repeats"
    yield "regex states", CHAT, guide(regex=f".{{0,{states + 1}}}"), "max_guide_states"
    nested = "(" * depth + "a" + ")*" * depth
    yield "regex depth", CHAT, guide(regex=nested), "max_guide_depth"
    yield "regex length", CHAT, guide(regex="ab" * (kib // 2 - 64)), "max_guide_kib"
    every = {"n": limit("max_choices")} | guide(regex="[a-z ]{1,60}")
    yield "guided choices at once", COMPLETIONS, every, "max_choices"
    choices = [f"choice {i}" for i in range(min(limit("max_entries"), kib // 16))]
    yield "choices", CHAT, guide(choice=choices), "max_entries"
    properties = {f"p{i}": {"type": "string"} for i in range(limit("max_guide_properties"))}
    schema = {"type": "object", "properties": properties}
    yield "schema properties", CHAT, guide(json=schema), "max_guide_properties"
    pattern = {"type": "string", "pattern": f"^.{{0,{states + 1}}}$"}
    yield "schema pattern", CHAT, guide(json=pattern), "max_guide_states"
    lengths = {f"p{i}": {"type": "string", "maxLength": 500 + i} for i in range(most_lengths)}
    measured = {"type": "object", "properties": lengths, "required": list(lengths)}
    yield "schema lengths", CHAT, guide(json=measured), "max_guide_lengths"
    yield "schema length", CHAT, guide(json=_schema(limit("max_schema_kib"))), "max_schema_kib"
    rules = "root ::= " + " ".join(["[a-z]*"] * repeats)
    yield "grammar", CHAT, guide(grammar=rules), "max_guide_repeats"


def _schema(kib: int) -> dict[str, Any]:
    """A JSON schema of that size: objects of eight fields each, as tools have."""
    kinds = ("string", "integer", "number", "boolean")
    objects: dict[str, Any] = {}
    size = 128
    while True:
        number = len(objects)
        fields = {f"field_{number}_{i}": {"type": kinds[i % 4]} for i in range(8)}
        held = {"type": "object", "properties": fields}
        size += len(json.dumps({f"object_{number}": held}))
        if size > kib * 1024:
            return {"type": "object", "properties": objects}
        objects[f"object_{number}"] = held


def _answers(target: Target) -> Iterator[Made]:
    limit = target.limits.__getitem__
    whole = [7 + i % 50 for i in range(target.max_model_len - 2)]
    yield "prompt of the context", COMPLETIONS, {"prompt": whole}, ""
    yield (
        "prompt of the context, logprobs",
        COMPLETIONS,
        {"prompt": whole, "prompt_logprobs": 1},
        "",
    )
    size = limit("max_prompt_logprobs") // VLLMS_LOGPROBS
    part = whole[: max(1, (size - 256) // 4)]
    logprobs = {"prompt": part, "prompt_logprobs": VLLMS_LOGPROBS}
    yield "prompt logprobs", COMPLETIONS, logprobs, "max_prompt_logprobs"
    long = {"max_tokens": LONGEST_ANSWER, "ignore_eos": True, "n": limit("max_choices")}
    yield "choices at once", COMPLETIONS, long, "max_choices"
    wide = min(VLLMS_LOGPROBS, limit("max_choice_logprobs"))
    few = long | {"logprobs": wide, "n": limit("max_choice_logprobs") // wide}
    yield "choices with logprobs", COMPLETIONS, few, "max_choice_logprobs"
    same = {"prompt": whole, "n": limit("max_choices")}
    yield "choices of one long prompt", COMPLETIONS, same, "max_choices"
    short = target.limits["max_token_ids"] // limit("max_choices") - 1
    prompts = [
        [7 + (i * (j + 3)) % 90 for i in range(min(short, target.max_model_len - 2))]
        for j in range(limit("max_choices"))
    ]
    yield "prompts at once", COMPLETIONS, {"prompt": prompts}, "max_choices"


def _steering(target: Target) -> Iterator[Made]:
    if target.vector is None:
        return
    limit = target.limits.__getitem__
    prompt = [7 + i % 50 for i in range(target.max_model_len - LONGEST_ANSWER - 2)]
    each = {"vector": target.vector, "on": "all"}
    base = {"prompt": prompt, "n": limit("max_choices")}
    answer = {"max_tokens": LONGEST_ANSWER, "ignore_eos": True}

    def steer(*terms: dict[str, Any]) -> dict[str, Any]:
        scaled = [term | {"scale": 0.001 * (i + 1)} for i, term in enumerate(terms)]
        return base | {"pilothouse": {"steer": scaled}}

    plain = [each] * limit("max_terms")
    yield "terms", COMPLETIONS, steer(*plain), "max_terms"
    programs = min(limit("max_request_programs"), limit("max_programs"))
    placed = programs.bit_length() - 2
    count = min(32, limit("max_positions") // max(1, placed))
    scattered = [
        each | {"positions": {"indices": [(i + 1) * (j + 1) * 3 for j in range(count)]}}
        for i in range(placed)
    ]
    rest = [each] * max(0, limit("max_terms") - placed)
    yield "terms with indices", COMPLETIONS, steer(*scattered, *rest), "max_request_programs"
    after = [each | {"positions": {"after": [7 + i], "span": 1}} for i in range(placed)]
    made: Callable[..., dict[str, Any]] = steer
    yield "terms with after", COMPLETIONS, made(*after, *rest) | answer, "max_request_programs"


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}
