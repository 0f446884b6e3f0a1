"""The list of decoder blocks of a model, by structure."""

from __future__ import annotations

from torch import nn
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

from pilothouse.errors import EngineError


def find_blocks(model: nn.Module, num_layers: int) -> tuple[str, nn.ModuleList]:
    """The dotted path and the list of decoder blocks: as long as the text model has layers.

    Of several such lists those count whose blocks hold vLLM's attention (or state-space) layers,
    and of these the one with the most parameters.

    Raises:
        EngineError: there is none.
    """
    lists = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    ]
    decoders = [each for each in lists if holds_mixer(each[1])]
    if not decoders:
        raise EngineError(
            f"{type(model).__name__} has no list of {num_layers} decoder blocks with attention "
            f"layers; lists of that length: {[path for path, _ in lists]}"
        )
    return max(decoders, key=lambda each: sum(p.numel() for p in each[1].parameters()))


def holds_mixer(module: nn.Module) -> bool:
    """Whether an attention or state-space layer of vLLM's is inside."""
    return any(isinstance(each, AttentionLayerBase) for each in module.modules())
