"""Pipeline parallel: reads of earlier stages travel with the hidden states to the last one.

Only the last stage's output reaches the scheduler. So a stage gives what its taps read, and what
it was given itself, to the next one; the last stage has every column when it takes its snapshot.

Shape suffixes: N most tokens, T tokens of the step, E read columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from pilothouse.engine.hooks import Decoder
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.vllm.model_runner import between_stages
from pilothouse.engine.vllm.runner_protocols import ModelRunner


def part_of(plan: Plan, decoder: Decoder) -> Plan:
    """The plan with the taps of this stage's layers only; columns keep their places."""
    here = tuple(tap for tap in plan.body.taps if decoder.is_here(tap.layer))
    if len(here) == len(plan.body.taps):
        return plan
    return replace(plan, body=plan.body.model_copy(update={"taps": here}))


def relay_reads(runner: ModelRunner, scores_NE: Tensor, wanted: Callable[[], bool]) -> None:
    """Hand reads from stage to stage in the steps whose emissions are wanted.

    Every stage is told the same of a step, so that what one sends the next expects.
    """
    if not scores_NE.shape[1]:
        return

    def receive(scores_TE: Tensor) -> None:
        # Before the pass: this stage's own taps then write their columns over the zeros.
        scores_NE[: scores_TE.shape[0]].copy_(scores_TE)

    def give(num_tokens: int) -> Tensor:
        # A copy: it is still on its way when the next pass writes the buffer.
        return scores_NE[:num_tokens].clone()

    between_stages(runner, wanted, receive, give)
