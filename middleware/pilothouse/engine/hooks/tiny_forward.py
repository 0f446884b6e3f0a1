"""One tiny forward pass of the loaded model, before vLLM compiles or profiles it.

It runs the real modules on random token ids, outside any compiled graph and without a KV cache.
Without attention metadata vLLM's attention kernels return nothing of meaning, so their output is
replaced by random numbers for the length of the pass: everything around them is real. A state-space
or linear-attention layer of vLLM's is replaced as a whole, with its projections.

Shape suffixes: T tokens, D hidden size.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from vllm.config import set_current_vllm_config
from vllm.distributed import get_pp_group
from vllm.forward_context import set_forward_context
from vllm.model_executor.layers.attention import Attention, MLAAttention
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.sequence import IntermediateTensors

from pilothouse.engine.vllm.config_protocols import VllmConfig
from pilothouse.errors import EngineError

NUM_TOKENS = 16
SPREAD = 0.25
"""Standard deviation of the stand-in for attention's result."""


def tiny_forward(model: nn.Module, vllm_config: VllmConfig) -> Tensor:
    """Return final hidden states [T, D] of a random prompt; the same prompt every time.

    Tensor-parallel ranks run it together. A later pipeline stage runs on random inputs.

    Raises:
        EngineError: the model does not run on a prompt of text alone, or gives no finite numbers.
    """
    device = next(model.parameters()).device
    inputs = _inputs(model, vllm_config, device)
    try:
        with (
            torch.inference_mode(),
            set_current_vllm_config(vllm_config),
            set_forward_context(None, vllm_config, num_tokens=NUM_TOKENS, skip_compiled=True),
            _random_mixers(model),
        ):
            output = model(**inputs)
    except EngineError:
        raise
    except Exception as error:
        raise EngineError(
            f"hook points of {type(model).__name__} cannot be checked: its forward pass on "
            f"{NUM_TOKENS} random tokens failed with {type(error).__name__}: {error}"
        ) from error
    final_TD = _final(output)
    if not torch.isfinite(final_TD).all():
        raise EngineError(
            f"hook points of {type(model).__name__} cannot be checked: its forward pass on "
            f"{NUM_TOKENS} random tokens gives numbers that are not finite"
        )
    return final_TD


def _inputs(model: nn.Module, vllm_config: VllmConfig, device: torch.device) -> dict[str, object]:
    model_config = vllm_config.model_config
    generator = torch.Generator().manual_seed(0)
    ids_T = torch.randint(0, model_config.get_vocab_size(), (NUM_TOKENS,), generator=generator)
    ids_T = ids_T.to(device)
    positions = torch.arange(NUM_TOKENS, device=device)
    if model_config.uses_mrope:
        positions = positions.expand(model_config.mrope_num_dims, -1).contiguous()
    inputs: dict[str, object] = {
        "input_ids": ids_T,
        "positions": positions,
        "intermediate_tensors": None,
        "inputs_embeds": None,
    }
    if not get_pp_group().is_first_rank:
        inputs["intermediate_tensors"] = _intermediate(model, model_config.dtype, device)
    elif model_config.is_multimodal_model:
        embed: Callable[[Tensor], Tensor] = model.embed_input_ids  # type: ignore[assignment]
        with torch.inference_mode():
            inputs["inputs_embeds"] = embed(ids_T)
        if not getattr(model, "requires_raw_input_tokens", False):
            inputs["input_ids"] = None
    return inputs


def _intermediate(model: nn.Module, dtype: torch.dtype, device: torch.device) -> object:
    make: Callable[..., IntermediateTensors] = model.make_empty_intermediate_tensors  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(1)
    empty = make(batch_size=NUM_TOKENS, dtype=dtype, device=device)
    return IntermediateTensors(
        {
            name: torch.randn(tensor.shape, generator=generator).to(tensor)
            for name, tensor in empty.tensors.items()
        }
    )


@contextmanager
def _random_mixers(model: nn.Module) -> Iterator[None]:
    """`forward` itself is replaced: the Transformers backend calls it past the hooks."""
    modules = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, AttentionLayerBase) and isinstance(module, nn.Module)
    }
    for name, module in modules.items():
        seed = zlib.crc32(name.encode())
        if isinstance(module, Attention | MLAAttention):
            module.forward = _random_attention(module.forward, seed)
        elif "hidden_states" in inspect.signature(module.forward).parameters:
            module.forward = _random_mixer(module.forward, seed)
    try:
        yield
    finally:
        for module in modules.values():
            vars(module).pop("forward", None)


def _random_attention(forward: Callable[..., Tensor], seed: int) -> Callable[..., Tensor]:
    def random(*args: object, **kwargs: object) -> Tensor:
        return _random_like(forward(*args, **kwargs), seed)

    return random


def _random_mixer(forward: Callable[..., object], seed: int) -> Callable[..., object]:
    """Return a stand-in for a mixer, which returns its result or writes it to `output`."""
    signature = inspect.signature(forward)

    def random(*args: object, **kwargs: object) -> Tensor | None:
        given = signature.bind(*args, **kwargs).arguments
        output = given.get("output")
        if isinstance(output, Tensor):
            output.copy_(_random_like(output, seed))
            return None
        return _random_like(given["hidden_states"], seed)

    return random


def _random_like(tensor: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (SPREAD * torch.randn(tensor.shape, generator=generator)).to(tensor)


def _final(output: object) -> Tensor:
    if isinstance(output, IntermediateTensors):
        tensors = list(output.tensors.values())
        return torch.stack([each.float() for each in tensors]).sum(0)
    if isinstance(output, tuple | list):
        output = output[0]
    assert isinstance(output, Tensor)
    return output.float()
