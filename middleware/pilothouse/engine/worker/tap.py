"""Taps: plain torch operations on static buffers, put at hook points and traced with the model.

Where the model defers an addition the true stream is `hidden + residual`. Reads see it before any
edit; edits go to `hidden`, which is the same sum. The request's edit comes first and the policies'
reads its result.

Shape suffixes: T tokens, D width of the tap on this rank, E read columns of this tap, P policy
targets.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from vllm.distributed import tensor_model_parallel_all_reduce

from pilothouse.edits.ops import KINDS
from pilothouse.engine.hooks import HookPoint
from pilothouse.engine.ops import held_kinds
from pilothouse.engine.plan.tap_plan import EditPlan, TapPlan
from pilothouse.engine.worker.buffers import TapBuffers
from pilothouse.engine.worker.kernel import edit_delta, policy_delta
from pilothouse.engine.worker.read_columns import ReadColumns
from pilothouse.engine.worker.tables import named_tensors, policies_on, tables_on


def install_tap(
    point: HookPoint, tap: TapPlan, buffers: TapBuffers, columns: ReadColumns | None
) -> Callable[[], None]:
    """Put a tap at its place in the model; returns what takes it out again."""
    on = _register(point.module, tap, buffers, columns)
    edits = tap.edits
    needs_stream = edits is not None and needs_true_stream(edits)
    summed = tensor_model_parallel_all_reduce if point.is_sharded else None

    def call(hidden_TD: Tensor, residual_TD: Tensor | None) -> Tensor | None:
        hidden_TD = materialize(hidden_TD)
        tokens = hidden_TD.shape[0]
        stream_TD = hidden_TD.float()
        if residual_TD is not None and (needs_stream or columns is not None):
            stream_TD = stream_TD + residual_TD
        if columns is not None:
            scores_TE = columns.on(on).scores(stream_TD, summed)
            on("scores")[:tokens, columns.start : columns.stop] = scores_TE
        if edits is None:
            return None
        tables = tables_on(on, buffers.tables[tap.tap])
        slot_T, coefficient_T = on("slot")[:tokens], on("coef")[:tokens]
        delta_TD = edit_delta(stream_TD, slot_T, coefficient_T, tables, summed)
        policies = policies_on(on, buffers.policies.get(tap.tap))
        if policies is not None:
            strengths_TP = on("policy")[:tokens]
            edited_TD = stream_TD + delta_TD
            delta_TD = delta_TD + policy_delta(edited_TD, strengths_TP, policies, summed)
        return (hidden_TD.float() + delta_TD).to(hidden_TD.dtype)

    return point.register(call)


def needs_true_stream(edits: EditPlan) -> bool:
    """Tell whether what is written here depends on what is there."""
    looks = any(KINDS[kind.name].reads_stream for kind in held_kinds(edits))
    return looks or bool(edits.policy_rows)


def _register(
    module: nn.Module, tap: TapPlan, buffers: TapBuffers, columns: ReadColumns | None
) -> Callable[[str], Tensor]:
    """Give the module all buffers, so that the compiler sees them as its inputs.

    Returns what finds one of them again. Names hold the site: two taps may share a module.
    """
    head = f"pilothouse_{tap.site}_"

    def keep(name: str, tensor: Tensor) -> None:
        module.register_buffer(head + name, tensor, persistent=False)

    def on(name: str) -> Tensor:
        found: Tensor = getattr(module, head + name)
        return found

    keep("slot", buffers.slot_N.device_tensor)
    keep("coef", buffers.coefficient_N.device_tensor)
    keep("policy", buffers.policy_NP.device_tensor)
    keep("scores", buffers.scores_NE)
    read = {} if columns is None else columns.named_tensors()
    tables, policies = buffers.tables.get(tap.tap), buffers.policies.get(tap.tap)
    for name, tensor in (read | named_tensors(tables) | named_tensors(policies)).items():
        keep(name, tensor)
    return on


# A copy that the compiler neither sees into nor moves. On a CPU vLLM's matrix products write into a
# tensor given to them. Inductor (torch 2.13) may fuse what a tap reads of such a tensor with a
# kernel that runs before the product, so that the tap gets what lay there before. Behind an
# operation of its own the order holds.
MATERIALIZE = "pilothouse::materialize"

torch.library.define(MATERIALIZE, "(Tensor hidden) -> Tensor")
torch.library.impl(MATERIALIZE, "CPU", torch.clone)
torch.library.register_fake(MATERIALIZE, torch.empty_like)


def materialize(hidden_TD: Tensor) -> Tensor:
    """Return the same values, computed to the end: a copy while a graph for a CPU is traced."""
    if hidden_TD.device.type == "cpu" and torch.compiler.is_compiling():
        copied_TD: Tensor = torch.ops.pilothouse.materialize(hidden_TD)
        return copied_TD
    return hidden_TD
