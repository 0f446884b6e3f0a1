"""Taps: plain torch operations on static buffers, put behind decoder layers and traced with them.

At `resid_post` the residual stream is the block's output, or `hidden + residual` where the model
defers the add. Reads see it before any edit; edits go to `hidden`, which is the same sum. The
request's edit comes first and the policies' reads its result.

Shape suffixes: T tokens, D hidden size, E read columns of this tap, P policy targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pilothouse.engine.barrier import settled
from pilothouse.engine.buffers import TapBuffers
from pilothouse.engine.kernel import EditTables, PolicyTables, edit_delta, policy_delta
from pilothouse.engine.plan import EditPlan, TapPlan
from pilothouse.engine.tables import named_tensors, policies_on, tables_on
from pilothouse.errors import EngineError

BlockOutput = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class ReadColumns:
    """Read rows of one tap: `reads_DE` float32 on device, columns [start, stop) of the scores."""

    reads_DE: Tensor
    start: int
    stop: int


def read(stream_TD: Tensor, reads_DE: Tensor) -> Tensor:
    """Read values in float32: `scores_TE = h_TD @ reads_DE`. Pure."""
    return stream_TD.float() @ reads_DE


def split(output: BlockOutput) -> tuple[Tensor, Tensor | None]:
    """(hidden, residual or None) of a decoder block's output.

    Raises:
        EngineError: a shape of output no tap knows.
    """
    if isinstance(output, Tensor):
        return output, None
    if len(output) == 1:
        return output[0], None
    if len(output) == 2 and isinstance(output[1], Tensor) and output[0].shape == output[1].shape:
        return output[0], output[1]
    raise EngineError(
        f"decoder block returned {len(output)} values of shapes "
        f"{[tuple(each.shape) for each in output if isinstance(each, Tensor)]}; a tap knows "
        "`hidden` and `(hidden, residual)`: this architecture needs an entry of its own"
    )


def install_tap(
    block: nn.Module, tap: TapPlan, buffers: TapBuffers, columns: ReadColumns | None
) -> Callable[[], None]:
    """Put a tap behind a decoder block; returns what takes it out again."""
    given = _register(block, tap, buffers, columns)
    start, stop = (columns.start, columns.stop) if columns is not None else (0, 0)
    edits = tap.edits
    needs_stream = edits is not None and needs_true_stream(edits)

    def hook(module: Any, _: object, output: BlockOutput) -> BlockOutput:
        hidden_TD, residual_TD = split(output)
        hidden_TD = settled(hidden_TD)
        tokens = hidden_TD.shape[0]
        stream_TD = hidden_TD.float()
        if residual_TD is not None and (needs_stream or stop > start):
            stream_TD = stream_TD + residual_TD
        if stop > start:
            module.pilothouse_scores[:tokens, start:stop] = read(stream_TD, module.pilothouse_reads)
        if edits is None:
            return output
        tables, policies = given(module)
        delta_TD = edit_delta(
            stream_TD, module.pilothouse_slot[:tokens], module.pilothouse_coef[:tokens], tables
        )
        if policies is not None:
            strengths_TP = module.pilothouse_policy[:tokens]
            delta_TD = delta_TD + policy_delta(stream_TD + delta_TD, strengths_TP, policies)
        edited_TD = (hidden_TD.float() + delta_TD).to(hidden_TD.dtype)
        if isinstance(output, torch.Tensor):
            return edited_TD
        return (edited_TD, *output[1:])

    return block.register_forward_hook(hook).remove


def needs_true_stream(edits: EditPlan) -> bool:
    """Whether what is written here depends on what is there."""
    return bool(edits.rank or edits.diagonal or edits.restores_norm or edits.policy_rows)


def _register(
    block: nn.Module, tap: TapPlan, buffers: TapBuffers, columns: ReadColumns | None
) -> Callable[[Any], tuple[EditTables, PolicyTables | None]]:
    """Give the block all buffers, so that the compiler sees them as its inputs.

    Returns what finds the tables on the module again: in the graph they must be its attributes.
    """

    def keep(name: str, tensor: Tensor) -> None:
        block.register_buffer(f"pilothouse_{name}", tensor, persistent=False)

    keep("slot", buffers.slot_N.device_tensor)
    keep("coef", buffers.coefficient_N.device_tensor)
    keep("policy", buffers.policy_NP.device_tensor)
    keep("scores", buffers.scores_NE)
    if columns is not None:
        keep("reads", columns.reads_DE)
    tables, policies = buffers.tables.get(tap.tap), buffers.policies.get(tap.tap)
    for name, tensor in (named_tensors(tables) | named_tensors(policies)).items():
        keep(name, tensor)

    def found(module: Any) -> tuple[EditTables, PolicyTables | None]:
        assert tables is not None
        return tables_on(module, tables), policies_on(module, policies)

    return found
