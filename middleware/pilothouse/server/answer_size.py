"""How much a request may ask for in its answer: choices, what each carries, and logprobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pilothouse.limits import ServedLimits, exceeded, refuse_count
from pilothouse.server.body import encoded
from pilothouse.server.request_schema import RequestFields

TOKEN_FIELDS: Final = ("logit_bias", "allowed_token_ids", "stop_token_ids")
NAMED_LOGPROBS: Final = "logprob_token_ids"
"""A chat's field that names the tokens whose logprobs each place of the answer shows."""


def refuse_choices(fields: RequestFields, limits: ServedLimits) -> None:
    """Leave a part of the engine to others: choices of a request run at the same time.

    Raises:
        RequestError: more prompts times `n` than `limits.max_choices`.
    """
    refuse_count(
        f"n: {fields.num_prompts} prompts with {fields.num_per_prompt} choices each",
        fields.num_prompts * fields.num_per_prompt,
        "max_choices",
        limits,
        "n",
    )


def refuse_heavy_choices(fields: RequestFields, limits: ServedLimits) -> None:
    """Bound what every choice of a request has a copy of.

    Raises:
        RequestError: more tokens that are biased, allowed or stopped at than
            `limits.max_choice_token_ids`, or more logprobs than `limits.max_choice_logprobs`.
    """
    choices = fields.num_prompts * fields.num_per_prompt
    read = {} if fields.vllm is None else fields.vllm.__dict__  # none: asked in Python, not HTTP
    sizes = {name: len(read.get(name) or ()) for name in TOKEN_FIELDS}
    most = max(sizes, key=sizes.__getitem__)
    got = sum(sizes.values())
    refuse_count(
        f"{most}: {got} tokens for each of {choices} choices",
        got * choices,
        "max_choice_token_ids",
        limits,
        most,
    )
    named = len(read.get(NAMED_LOGPROBS) or ())
    asked = fields.num_logprobs or 0
    if asked < 0 or max(asked, named) * choices > limits.max_choice_logprobs:
        field = NAMED_LOGPROBS if named > max(asked, 0) else "logprobs"
        each = "all" if asked < 0 else max(asked, named)
        got_logprobs = f"{each} of each token of {choices} choices"
        raise exceeded(field, got_logprobs, "max_choice_logprobs", limits, param=field)


def refuse_prompt_logprobs(
    fields: RequestFields, body: Mapping[str, Any], limits: ServedLimits
) -> None:
    """Bound the logprobs of prompts, each of which vLLM makes an object of in its event loop.

    One of each token is always taken: it is what evaluation harnesses ask for.

    Raises:
        RequestError: more than `limits.max_prompt_logprobs` of prompts of that length.
    """
    asked = fields.num_prompt_logprobs
    if asked is None or 0 <= asked <= 1:
        return
    size = len(encoded(dict(body)))
    if asked < 0 or asked * size > limits.max_prompt_logprobs:
        got = f"{'all' if asked < 0 else asked} of each token in {size} bytes"
        raise exceeded(
            "prompt_logprobs", got, "max_prompt_logprobs", limits, param="prompt_logprobs"
        )
