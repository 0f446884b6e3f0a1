"""vLLM's per-request outputs: logprob slices, and records riding on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.outputs import LogprobsLists
from vllm.v1.request import RequestStatus

from pilothouse.engine.vllm import protocols as shapes
from pilothouse.record import ORPHAN_PREFIX, PROGRAMS_KEY, RECORD_KEY, REVISION_KEY, Record

STOP = FinishReason.STOP
LENGTH = FinishReason.LENGTH
ERROR = FinishReason.ERROR
FINISHED_STOPPED = RequestStatus.FINISHED_STOPPED
FINISHED_ERROR = RequestStatus.FINISHED_ERROR
FINISHED_ABORTED = RequestStatus.FINISHED_ABORTED
BLOCK_REASON = "pilothouse:block"

ONE_SHOT = (
    "prefill_stats",
    "events",
    "new_prompt_logprobs_tensors",
    "prompt_token_id_logprobs",
)
"""Fields vLLM fills once: they wait for the next output when one is held back."""


def slice_logprobs(
    logprobs: shapes.LogprobsLists | None, index: int
) -> shapes.LogprobsLists | None:
    """Return the entry of one token, or None."""
    if logprobs is None:
        return None
    at = slice(index, index + 1)
    one: shapes.LogprobsLists = LogprobsLists(
        logprobs.logprob_token_ids[at], logprobs.logprobs[at], logprobs.sampled_token_ranks[at]
    )
    return one


def join_logprobs(
    slices: Sequence[shapes.LogprobsLists | None],
) -> shapes.LogprobsLists | None:
    """Return the inverse of `slice_logprobs` over several tokens; None when there are none.

    A step's rows are as wide as the greediest request of that step asked for, so tokens of one
    request come in several widths. What it asked for itself is in the narrowest.
    """
    rows = [each for each in slices if each is not None]
    if not rows or slices[0] is None:
        return None
    width = min(each.logprobs.shape[1] for each in rows)
    joined: shapes.LogprobsLists = LogprobsLists(
        np.concatenate([each.logprob_token_ids[:, :width] for each in rows]),
        np.concatenate([each.logprobs[:, :width] for each in rows]),
        np.concatenate([each.sampled_token_ranks for each in rows]),
    )
    return joined


def num_fed_tokens(request: shapes.Request) -> int:
    """Positions of a request that went through the model at least once: all but the newest token.

    A request that never ran or was stopped while its prompt was computed has fewer.
    """
    if request.num_preemptions or request.num_output_tokens:
        return int(request.num_tokens) - 1
    return int(request.num_computed_tokens)


def carry(record: Record, output: shapes.EngineCoreOutput) -> None:
    """Put a record on an output. KV connectors are refused, so the field is free."""
    output.kv_transfer_params = {RECORD_KEY: record.to_wire()}


def orphan(record: Record, request_id: str) -> EngineCoreOutput:
    """Make an output for no live request, which stock vLLM passes over, with a last record."""
    output = EngineCoreOutput(request_id=ORPHAN_PREFIX + request_id, new_token_ids=[])
    carry(record, output)
    return output


def notice(revision: str) -> EngineCoreOutput:
    """Return an output for no request that tells an API process of a newer revision."""
    output = EngineCoreOutput(request_id=ORPHAN_PREFIX + revision, new_token_ids=[])
    output.kv_transfer_params = {REVISION_KEY: revision}
    return output


def programs_notice(count: int) -> EngineCoreOutput:
    """Return an output for no request that tells an API process how many programs are in use."""
    output = EngineCoreOutput(request_id=f"{ORPHAN_PREFIX}programs", new_token_ids=[])
    output.kv_transfer_params = {PROGRAMS_KEY: count}
    return output


def final_output(
    request: shapes.Request, reason: FinishReason, stop_reason: str | None
) -> EngineCoreOutput:
    """Return an output without tokens that ends a request."""
    return EngineCoreOutput(
        request_id=request.request_id,
        new_token_ids=[],
        finish_reason=reason,
        stop_reason=stop_reason,
        trace_headers=request.trace_headers,
    )


def token_output(
    output: shapes.EngineCoreOutput, token_ids: list[int], logprobs: shapes.LogprobsLists | None
) -> EngineCoreOutput:
    """Make an output of cleared tokens, with the one-shot fields of the output it precedes."""
    first = EngineCoreOutput(
        request_id=output.request_id,
        new_token_ids=token_ids,
        new_logprobs=logprobs,
        trace_headers=output.trace_headers,
    )
    for name in ONE_SHOT:
        setattr(first, name, getattr(output, name))
        setattr(output, name, None)
    return first


def verdict_output(output: shapes.EngineCoreOutput) -> EngineCoreOutput:
    """Make the output that ends a request by a verdict, with nothing of what the step sampled."""
    last = EngineCoreOutput(
        request_id=output.request_id,
        new_token_ids=[],
        finish_reason=STOP,
        stop_reason=BLOCK_REASON,
        trace_headers=output.trace_headers,
    )
    for name in ("prefill_stats", "events"):
        setattr(last, name, getattr(output, name))
    return last


def complete_prompt_logprobs(state: shapes.RequestState, output: shapes.EngineCoreOutput) -> None:
    """Give a request that ends early the prompt logprobs that vLLM's answers count on.

    Where they were asked for, its formatters take one entry for each token of the prompt for
    granted. An entry without a value is known to them: the first token never has one.

    Args:
        output: the output that ends the request.
        state: the output processor's, of the request that `output` is for.
    """
    processor = state.logprobs_processor
    given = processor.prompt_logprobs if processor is not None else None
    if output.finish_reason is None or output.new_prompt_logprobs_tensors is not None or not given:
        return
    for _ in range(state.prompt_len - len(given)):
        given.append(None)


def add_outputs(
    outputs: dict[int, EngineCoreOutputs], pending: dict[int, list[EngineCoreOutput]]
) -> None:
    """Append outputs of ours to a step's outputs, by client."""
    for client_index, more in pending.items():
        if client_index in outputs:
            outputs[client_index].outputs.extend(more)
        else:
            outputs[client_index] = EngineCoreOutputs(outputs=list(more))
