"""Taps: plain torch operations on static buffers, put behind decoder layers and traced with them.

At `resid_post` the residual stream is the block's output, or `hidden + residual` where the model
defers the add. Reads see it before any edit; edits go to `hidden`, which is the same sum.

Shape suffixes: T tokens, D hidden size, E read columns of this tap, S slots, P policy targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pilothouse.engine.buffers import TapBuffers
from pilothouse.engine.plan import TapPlan
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


def add_edit(
    hidden_TD: Tensor,
    slot_T: Tensor,
    coefficient_T: Tensor,
    table_SD: Tensor,
    policy_TP: Tensor | None,
    policy_PD: Tensor | None,
) -> Tensor:
    """The request's edit, then the policies', added in float32; hidden's dtype out. Pure.

    Slot 0 and coefficient 0 give hidden back bit for bit.
    """
    delta_TD = coefficient_T.unsqueeze(-1) * table_SD[slot_T]
    if policy_TP is not None and policy_PD is not None:
        delta_TD = delta_TD + policy_TP @ policy_PD
    return (hidden_TD.float() + delta_TD).to(hidden_TD.dtype)


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
    """Put a tap behind a decoder block; returns what takes it out again.

    The buffers are registered on the block so that the compiler sees them as its inputs.
    """
    block.register_buffer("pilothouse_slot", buffers.slot_N.device_tensor, persistent=False)
    block.register_buffer("pilothouse_coef", buffers.coefficient_N.device_tensor, persistent=False)
    block.register_buffer("pilothouse_scores", buffers.scores_NE, persistent=False)
    if columns is not None:
        block.register_buffer("pilothouse_reads", columns.reads_DE, persistent=False)
    if tap.edits:
        block.register_buffer("pilothouse_table", buffers.tables[tap.layer], persistent=False)
    policy_PD = buffers.policy_rows.get(tap.layer)
    if policy_PD is not None:
        block.register_buffer("pilothouse_policy", buffers.policy_NP.device_tensor, False)
        block.register_buffer("pilothouse_policy_rows", policy_PD, persistent=False)
    start, stop = (columns.start, columns.stop) if columns is not None else (0, 0)
    edits, steered = tap.edits, policy_PD is not None

    def hook(module: Any, _: object, output: BlockOutput) -> BlockOutput:
        hidden_TD, residual_TD = split(output)
        tokens = hidden_TD.shape[0]
        if stop > start:
            stream_TD = hidden_TD if residual_TD is None else hidden_TD.float() + residual_TD
            module.pilothouse_scores[:tokens, start:stop] = read(stream_TD, module.pilothouse_reads)
        if not edits:
            return output
        hidden_TD = add_edit(
            hidden_TD,
            module.pilothouse_slot[:tokens],
            module.pilothouse_coef[:tokens],
            module.pilothouse_table,
            module.pilothouse_policy[:tokens] if steered else None,
            module.pilothouse_policy_rows if steered else None,
        )
        if isinstance(output, torch.Tensor):
            return hidden_TD
        return (hidden_TD, *output[1:])

    return block.register_forward_hook(hook).remove
