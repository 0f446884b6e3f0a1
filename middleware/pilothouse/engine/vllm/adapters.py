"""LoRA adapters around what is ours: a pass without any, and a slot that stays empty."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import nn
from vllm.platforms import current_platform

from pilothouse.engine.vllm.runner_protocols import ModelRunner
from pilothouse.engine.vllm.version import of_this_version


def without_adapters(runner: ModelRunner, num_tokens: int) -> AbstractContextManager[None]:
    """While open, a pass of `num_tokens` through the model uses no LoRA adapter.

    Wrapped modules index by token, so that a pass outside a step needs a mapping too.
    """
    selected: AbstractContextManager[None] = runner.maybe_select_dummy_loras(
        runner.lora_config, np.array([num_tokens]), num_active_loras=0
    )
    return selected


def add_empty_adapter(model: nn.Module) -> None:
    """On CPU, put a slot that stays empty behind a model's LoRA slots.

    The CPU kernels of some versions look a token without an adapter up at index -1 and so give it
    the adapter of the last slot, where CUDA kernels skip it. Zeros in the last place of the second
    factor make that nothing.
    """
    if not current_platform.is_cpu():
        return
    if not of_this_version().ADAPTERLESS_TOKENS_TAKE_THE_LAST_SLOT:
        return
    for module in model.modules():
        stacked = getattr(module, "lora_b_stacked", None)
        if isinstance(stacked, torch.Tensor):
            module.lora_b_stacked = _with_zeros(stacked)
        elif isinstance(stacked, tuple):
            module.lora_b_stacked = tuple(map(_with_zeros, stacked))  # type: ignore[assignment]


def _with_zeros(stacked: torch.Tensor) -> torch.Tensor:
    return torch.cat([stacked, torch.zeros_like(stacked[:1])])
