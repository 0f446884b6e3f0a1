"""What a client's constraints leave the model to choose from, where vLLM 0.32 keeps it."""

from __future__ import annotations

from typing import Any

from pilothouse.engine.constraint import always_narrow, narrow_rows


def narrowed(grammar: Any, scheduler_output: Any, vocab_size: int) -> dict[str, list[bool]]:
    """Of each request under a grammar, whether each position that the step samples is narrow.

    Args:
        grammar: vLLM's masks of the step: a row for each draft of a request, and one more.
    """
    narrow = narrow_rows(grammar.grammar_bitmask, vocab_size)
    drafts = scheduler_output.scheduled_spec_decode_tokens
    found, first = {}, 0
    for request_id in grammar.structured_output_request_ids:
        stop = first + 1 + len(drafts.get(request_id, ()))
        found[request_id] = narrow[first:stop]
        first = stop
    return found


def params_narrow(params: Any, vocab_size: int) -> bool:
    """Whether a request's sampling parameters leave next to no choice at any position."""
    return always_narrow(
        vocab_size,
        allowed_token_ids=params.allowed_token_ids,
        logit_bias=params.logit_bias,
        num_barred=len(params.bad_words_token_ids or ()),
    )
