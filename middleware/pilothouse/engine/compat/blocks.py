"""Where an architecture keeps its decoder blocks: dotted paths inside vLLM's model object."""

from __future__ import annotations

from operator import attrgetter

from torch import nn

from pilothouse.errors import EngineError

BLOCK_PATHS: dict[str, str] = {
    "LlamaForCausalLM": "model.layers",
    "MistralForCausalLM": "model.layers",
    "MixtralForCausalLM": "model.layers",
    "Qwen2ForCausalLM": "model.layers",
    "Qwen3ForCausalLM": "model.layers",
    "Gemma3ForCausalLM": "model.layers",
    "GPT2LMHeadModel": "transformer.h",
    "OPTForCausalLM": "model.decoder.layers",
}


def decoder_blocks(model: nn.Module, architecture: str) -> list[nn.Module]:
    """The decoder blocks in order.

    Raises:
        EngineError: the architecture has no entry, or its entry leads nowhere.
    """
    path = BLOCK_PATHS.get(architecture)
    if path is None:
        raise EngineError(
            f"architecture {architecture} has no entry in {__name__}.BLOCK_PATHS; known are "
            f"{sorted(BLOCK_PATHS)}. Add the dotted path of its decoder blocks and a parity test"
        )
    blocks = attrgetter(path)(model)
    return list(blocks)
