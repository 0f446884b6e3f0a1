"""What a table entry says of an architecture: module names inside one decoder block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

Scale = Callable[[nn.Module, Any], float]
"""(block, text config) -> the factor on what attention and MLP add to the stream."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a decoder block are; every name is relative to the block.

    `attention_out` and `mlp_out` name the module whose output is added to the residual stream:
    the attention or MLP itself, or the norm behind it. `heads` and `neurons` name their output
    projections. `mid` names the module that receives the stream between the two; None where
    attention and MLP read the same input. None for a part means that the architecture has none.

    `deferred`: blocks hand on `(hidden, residual)` and the next norm adds the two. Where it is
    False a second value of the block's output is not used by the next block.
    `parallel_if` names flags of the config; with any of them set there is no `mid`.
    `transformers`: written for vLLM's Transformers backend and not for a model class of vLLM's.
    """

    blocks: str = "model.layers"
    attention_out: str | None = "self_attn"
    heads: str | None = "self_attn.o_proj"
    mid: str | None = "post_attention_layernorm"
    mlp_out: str | None = "mlp"
    neurons: str | None = "mlp.down_proj"
    deferred: bool = True
    parallel_if: tuple[str, ...] = ()
    scale: Scale | None = None
    transformers: bool = False
