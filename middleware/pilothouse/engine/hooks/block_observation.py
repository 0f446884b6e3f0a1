"""What goes through one decoder block in a pass: the stream, and what each part makes of it.

Shape suffixes: T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from pilothouse.engine.hooks.decoder import Decoder
from pilothouse.engine.hooks.hook_point import read_point


@dataclass
class Part:
    """A module of a block: the tensors it was given and what it gave, float32."""

    name: str
    module: nn.Module
    given: list[Tensor] = field(default_factory=list)
    gave_TD: Tensor | None = None


@dataclass
class BlockPass:
    """The stream before and behind a block, float32, and its parts in the order of their calls.

    `eps` is the relative rounding of the model's dtype.
    """

    before_TD: Tensor
    behind_TD: Tensor
    parts: list[Part]
    eps: float


def observe(
    decoder: Decoder, layer: int, eps: float, done: Callable[[BlockPass], None]
) -> Callable[[], None]:
    """Have `done` called when a block is through; returns what takes the hooks out again."""
    block, before = decoder.blocks[layer], decoder.point(layer, "resid_pre")
    behind = decoder.point(layer, "resid_post")
    parts: list[Part] = []
    entered: list[Tensor] = []

    def into(_: nn.Module, args: Any, kwargs: Any) -> None:
        entered.append(_sum(*read_point(before, (args, kwargs))))

    def out(_: nn.Module, __: Any, output: Any) -> None:
        behind_TD = _sum(*read_point(behind, output))
        done(BlockPass(entered.pop(), behind_TD, parts.copy(), eps))
        parts.clear()

    with ExitStack() as stack:
        stack.callback(block.register_forward_pre_hook(into, with_kwargs=True).remove)
        for name, module in _children(block):
            stack.callback(_observe_part(parts, name, module))
        stack.callback(block.register_forward_hook(out).remove)
        return stack.pop_all().close


def _observe_part(parts: list[Part], name: str, module: nn.Module) -> Callable[[], None]:
    given: list[Tensor] = []

    def into(_: nn.Module, args: Any, kwargs: Any) -> None:
        given[:] = [_rows(each) for each in (*args, *kwargs.values()) if _is_stream(each)]

    def out(_: nn.Module, __: Any, output: Any) -> None:
        parts.append(Part(name, module, given.copy(), _value(output)))

    with ExitStack() as stack:
        stack.callback(module.register_forward_pre_hook(into, with_kwargs=True).remove)
        stack.callback(module.register_forward_hook(out).remove)
        return stack.pop_all().close


def _children(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in block.named_children():
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            yield from ((f"{name}.{inner}", each) for inner, each in module.named_children())
        else:
            yield name, module


def _value(output: Any) -> Tensor | None:
    """What a part gives: its first tensor, with the bias that some leave to their caller."""
    if not isinstance(output, tuple | list):
        return _rows(output) if _is_stream(output) else None
    if not output or not _is_stream(output[0]):
        return None
    second = output[1] if len(output) == 2 else None
    bias = second if isinstance(second, Tensor) and second.ndim == 1 else 0.0
    return _rows(output[0]) + bias


def _is_stream(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim >= 2 and value.is_floating_point()


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1]).float().clone()


def _sum(hidden_TD: Tensor, residual_TD: Tensor | None) -> Tensor:
    total_TD = hidden_TD.float().clone()
    return total_TD if residual_TD is None else total_TD + residual_TD.float()
