"""/v1/completions: any number of prompts, `n` answers to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.renderers.inputs.preprocess import prompt_to_seq

from pilothouse.policy.endpoint_names import EndpointName
from pilothouse.server.admission import Admitted
from pilothouse.server.endpoints.base import Answer
from pilothouse.server.endpoints.choices import (
    ChoiceEndpoint,
    ChoiceStream,
    choice_fields,
    finish_reason,
    has_literal_shape,
    prompt_logprobs,
)
from pilothouse.server.request_schema import (
    Body,
    RequestFields,
    chooses_tokens,
    drop_empty,
    validated,
    write_back,
)
from pilothouse.server.response.decisions import ChoiceKey, Termination

_WITHHELD = (
    "logprobs",
    "stop_reason",
    "token_ids",
    "prompt_logprobs",
    "prompt_token_ids",
    "routed_experts",
    "weight_versions",
)


class Completions(ChoiceEndpoint):
    """Completions. They have no refusal: a blocked prompt is an error."""

    name: ClassVar[EndpointName] = "completions"
    object_name = "text_completion"
    id_prefix = "cmpl-"

    def read(self, body: Body) -> RequestFields:
        """Read prompts; an empty `prompt_embeds`, which vLLM refuses, means none."""
        drop_empty(body)
        asked = validated(body, CompletionRequest)
        write_back(body, asked)
        read = asked.__dict__
        return RequestFields(
            **choice_fields(read),
            prompts=prompt_to_seq(read["prompt"] or []),
            num_prompts=_num_prompts(read["prompt"]) + _num_prompts(read["prompt_embeds"]),
            num_logprobs=read["logprobs"],
            num_prompt_logprobs=prompt_logprobs(read, echoed=read["logprobs"]),
            prompt_embeds=bool(read["prompt_embeds"]),
            constrained=chooses_tokens(
                read,
                has_literal_shape=has_literal_shape(read),
                has_strict_tool=False,
            ),
            vllm=asked,
        )

    def key(self, index: int, admitted: Admitted) -> ChoiceKey:
        """Count `n` answers of the first prompt, then of the next."""
        return divmod(index, admitted.num_per_prompt)

    def as_error(self, ending: Termination, admitted: Admitted) -> bool:
        """Give an error, unless other prompts of the same request still get an answer."""
        return ending.action == "block" and admitted.num_prompts == 1

    def end_whole(self, choice: dict[str, Any], ending: Termination) -> None:
        """Leave no text, or write the canned answer."""
        choice["text"] = ending.message if ending.action == "respond" else ""
        for name in _WITHHELD:
            if name in choice:
                choice[name] = None
        choice["finish_reason"] = finish_reason(ending)

    def cleared_part(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        """Return the text, if there is any."""
        if not choice["text"] and not choice.get("token_ids"):
            return None
        kept = {**choice, "finish_reason": None, "stop_reason": None}
        kept.pop("weight_versions", None)
        return kept

    def ending_parts(self, index: int, ending: Termination) -> list[dict[str, Any]]:
        """Return one chunk: it finishes, with the canned answer if there is one."""
        text = ending.message if ending.action == "respond" else ""
        part = {"index": index, "text": text, "logprobs": None}
        part |= {"finish_reason": finish_reason(ending), "stop_reason": None}
        return [{**part, "prompt_token_ids": None, "token_ids": None}]

    def is_opening(self, choice: dict[str, Any]) -> bool:  # noqa: ARG002
        """Completions have no opening chunk."""
        return False

    def stream(self, answer: Answer) -> ChoiceStream:
        """Return what rewrites the chunks of a stream."""
        return ChoiceStream(self, answer)


def _num_prompts(prompt: Sequence[Any] | None) -> int:
    return 0 if prompt is None else len(prompt_to_seq(prompt))


ENDPOINT = Completions()
