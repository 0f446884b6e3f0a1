"""Speculative decoding: which positions of a step count, and the order in which they are judged.

A step feeds a request's newest token and drafts of what may follow. Those drafts that vLLM accepts
are tokens of the answer, and their reads are as good as any. The others were fed in vain: their
positions come again with other tokens, and nothing of them is scored, counted or hashed.

Shape suffixes: B requests of the step, T tokens, E read columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pilothouse.engine.scheduler.messages import Emissions
from pilothouse.engine.vllm.protocols import ModelRunnerOutput, Request, SchedulerOutput
from pilothouse.engine.vllm.scheduler import num_kept
from pilothouse.engine.worker.batch_state import positions
from pilothouse.types import IntArray


@dataclass(frozen=True, slots=True)
class Verified:
    """Of a request with drafts in a step: fed positions of its answer, and drafts rejected."""

    positions: int
    rejected: int


NOTHING = Verified(1 << 60, 0)


def verify(
    scheduler_output: SchedulerOutput,
    runner_output: ModelRunnerOutput,
    requests: Mapping[str, Request],
    max_model_len: int,
) -> dict[str, Verified]:
    """What became of the drafts of a step, by request; empty in a step without drafts.

    To be called before vLLM appends the sampled tokens. Tokens that were accepted behind the one
    that ends the answer do not count.
    """
    drafted: Mapping[str, list[int]] = scheduler_output.scheduled_spec_decode_tokens
    found = {}
    for request_id, drafts in drafted.items():
        fed = scheduler_output.num_scheduled_tokens[request_id]
        sampled = sampled_ids(runner_output, request_id)
        request = requests.get(request_id)
        if not sampled or request is None:
            found[request_id] = Verified(fed - len(drafts), 0)
            continue
        rejected = len(drafts) - max(len(sampled) - 1, 0)
        kept = len(sampled) if len(sampled) == 1 else num_kept(request, sampled, max_model_len)
        found[request_id] = Verified(fed - len(drafts) + kept - 1, rejected)
    return found


def accepted_only(emissions: Emissions, verified: Mapping[str, Verified]) -> Emissions:
    """The emissions without those of drafts that are no tokens of the answer."""
    if not verified:
        return emissions
    counts_B = np.array(emissions.counts, np.int64)
    kept_B = np.array(
        [verified.get(name, NOTHING).positions for name in emissions.request_ids], np.int64
    )
    return _rows(emissions, np.zeros_like(counts_B), np.minimum(counts_B, kept_B))


def waves(emissions: Emissions, verified: Mapping[str, Verified]) -> Iterator[Emissions]:
    """The same, one token of each drafted answer at a time, as if each had been a step.

    Rules are judged after every token: a run of tokens above a threshold is as long, and begins
    and ends where it does without drafts.
    """
    if not verified:
        yield emissions
        return
    counts_B = np.array(emissions.counts, np.int64)
    drafted_B = np.array([name in verified for name in emissions.request_ids], bool)
    first_B = np.where(drafted_B, np.minimum(counts_B, 1), counts_B)
    yield _rows(emissions, np.zeros_like(counts_B), first_B)
    for wave in range(1, int(counts_B[drafted_B].max(initial=1))):
        wave_B = np.full_like(counts_B, wave)
        yield _rows(emissions, wave_B, (drafted_B & (counts_B > wave)).astype(np.int64))


def sampled_ids(runner_output: ModelRunnerOutput, request_id: str) -> list[int]:
    """What a step sampled for a request, drafts that were accepted first."""
    index = runner_output.req_id_to_index.get(request_id)
    if index is None or not runner_output.sampled_token_ids:
        return []
    return list(runner_output.sampled_token_ids[index])


def _rows(emissions: Emissions, skipped_B: IntArray, counts_B: IntArray) -> Emissions:
    """Of each request `counts_B` positions behind the first `skipped_B`."""
    old_B = np.array(emissions.counts, np.int64)
    firsts_B = np.cumsum(old_B) - old_B + skipped_B
    here_B = np.flatnonzero(counts_B)
    rows_T = positions(firsts_B[here_B], counts_B[here_B])
    starts_B = np.array(emissions.starts, np.int64) + skipped_B
    return Emissions(
        tuple(emissions.request_ids[b] for b in here_B),
        tuple(starts_B[here_B].tolist()),
        tuple(counts_B[here_B].tolist()),
        emissions.scores_TE[rows_T],
    )
