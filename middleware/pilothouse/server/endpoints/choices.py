"""What chat and completions share: an answer is a list of `choices`, each with its own end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pilothouse.server.endpoints.base import Answer, Endpoint, Json, Spoken
from pilothouse.server.request_schema import Body
from pilothouse.server.response.final_decision import ChoiceAction, Termination

Choice = dict[str, Any]

_LITERAL_FORMATS = ("json_schema", "structural_tag")
"""Of `response_format`; plain `json_object` leaves every word to the model."""
_SHOWS_MORE = ("prompt_logprobs", "kv_transfer_params", "ec_transfer_params")
"""Keys of a body that show more of a blocked answer than its choices do."""


class ChoiceEndpoint(Endpoint):
    """An endpoint with choices, which are plain JSON objects as vLLM made them."""

    object_name: ClassVar[str]
    """What vLLM writes under `object` of a chunk."""
    id_prefix: ClassVar[str]

    @abstractmethod
    def end_whole(self, choice: Choice, ending: Termination) -> None:
        """Rewrite a choice of a body, in place, into how a verdict ends it."""

    @abstractmethod
    def cleared_part(self, choice: Choice) -> Choice | None:
        """Return what a finishing chunk still carries of cleared tokens; None if nothing."""

    @abstractmethod
    def ending_parts(self, index: int, ending: Termination) -> list[Choice]:
        """Return the choices of the chunks that end a stream; the last has the finish reason."""

    @abstractmethod
    def is_opening(self, choice: Choice) -> bool:
        """Say whether a chunk opens a choice and says nothing yet."""

    def shortest(self, body: Body) -> Body:
        """Return the body with the fields that bound the answer's length at one token."""
        kept = {name: each for name, each in body.items() if name != "min_tokens"}
        kept["max_tokens"] = 1
        if kept.get("max_completion_tokens") is not None:
            kept["max_completion_tokens"] = 1
        return kept

    def spoken(self, part: Json) -> Iterator[Spoken]:
        """Yield what each choice of a body or chunk says."""
        for choice in part.get("choices") or ():
            ended = choice.get("finish_reason") is not None
            yield Spoken(choice["index"], choice_text(choice), ended)

    def rewrite(self, body: Json, answer: Answer) -> list[ChoiceAction]:
        """Settle, rewrite and mark every choice."""
        admitted = answer.admitted
        deeds: list[ChoiceAction] = []
        expected = list(range(admitted.num_choices))
        # Another number of choices means that what an index stands for is not known either.
        lost = admitted.requirements.ends and expected != sorted(
            choice["index"] for choice in body["choices"]
        )
        for choice in body["choices"]:
            if lost:
                settlement = answer.unaccounted()
            else:
                settlement = answer.settle(self.key(choice["index"], admitted))
            if settlement.ending is not None:
                self.end_whole(choice, settlement.ending)
                _end_body(body)
            choice["pilothouse"] = settlement.visible
            deeds.append(settlement.action)
        if admitted.asked_model is not None:
            body["model"] = admitted.asked_model
        body["pilothouse"] = answer.mark
        return deeds


def choice_fields(read: Mapping[str, Any]) -> dict[str, Any]:
    """Return what chat and completions read alike of vLLM's request, as arguments."""
    options = read["stream_options"]
    usage = options is not None and bool(options.include_usage)
    n = read["n"]
    return {
        "model": read["model"],
        "stream": bool(read["stream"]),
        "include_usage": usage,
        "continuous_usage": usage and bool(options.continuous_usage_stats),
        "num_per_prompt": n if n is not None and n > 0 else 1,
        "echo": bool(read["echo"]),
        "truncated": read["truncate_prompt_tokens"] is not None,
        "use_beam_search": read["use_beam_search"],
        "kv_transfer_params": bool(read["kv_transfer_params"]),
        "ec_transfer_params": bool(read["ec_transfer_params"]),
        "xargs": read["vllm_xargs"] or {},
    }


def has_literal_shape(read: Mapping[str, Any]) -> bool:
    """Say whether `response_format` lets the client choose words of the answer."""
    shape = read["response_format"]
    return shape is not None and shape.type in _LITERAL_FORMATS


def prompt_logprobs(read: Mapping[str, Any], *, echoed: int | None) -> int | None:
    """Return how many logprobs of the prompt are asked for, by themselves or by an echo."""
    asked: int | None = read["prompt_logprobs"]
    return echoed if asked is None and read["echo"] else asked


def choice_text(choice: Mapping[str, Any]) -> str:
    """Return all that a choice, or a part of one in a stream, says."""
    said = choice.get("message") or choice.get("delta") or {}
    texts = [choice.get("text"), said.get("reasoning"), said.get("content")]
    for call in said.get("tool_calls") or ():
        function = call.get("function") or {}
        texts += [function.get("name"), function.get("arguments")]
    return "".join(each for each in texts if isinstance(each, str))


def finish_reason(ending: Termination) -> str:
    """Return the `finish_reason` of a choice that a verdict ends."""
    return "stop" if ending.action == "respond" else "content_filter"


def _end_body(body: Json) -> None:
    for name in _SHOWS_MORE:
        if name in body:
            body[name] = None
