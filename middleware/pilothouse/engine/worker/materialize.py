"""A copy that the compiler neither sees into nor moves.

On a CPU vLLM's matrix products write into a tensor given to them. Inductor (torch 2.13) may fuse
what a tap reads of such a tensor with a kernel that runs before the product, so that the tap gets
what lay there before. Behind an operation of its own the order holds.

Shape suffixes: T tokens, D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor

NAME = "pilothouse::settled"

torch.library.define(NAME, "(Tensor hidden) -> Tensor")
torch.library.impl(NAME, "CPU", torch.clone)
torch.library.register_fake(NAME, torch.empty_like)


def settled(hidden_TD: Tensor) -> Tensor:
    """The same values, complete: a copy where a graph for a CPU is traced, else the tensor."""
    if hidden_TD.device.type == "cpu" and torch.compiler.is_compiling():
        copied_TD: Tensor = torch.ops.pilothouse.settled(hidden_TD)
        return copied_TD
    return hidden_TD
