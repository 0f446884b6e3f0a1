"""Tiny forward passes with known edits: what each hook point saw, and what blocks hand on.

Shape suffixes: T tokens, D width of the tensor on this rank.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pilothouse.engine.hooks.decoder import Decoder
from pilothouse.engine.hooks.hook_point import Argument, HookPoint
from pilothouse.errors import EngineError
from pilothouse.types import Site

Run = Callable[[], Tensor]
EDIT_SIZE = 0.25
"""Length of an edit as a share of what it edits: seen in any dtype, and never an overflow."""


@dataclass(frozen=True)
class Seen:
    """What a point read before its edit, and the edit; float32.

    `size_TD` is the sum of absolute values that went into it, which bounds rounding; `dtype` is
    the model's here.
    """

    value_TD: Tensor
    edit_TD: Tensor
    size_TD: Tensor
    dtype: torch.dtype

    @property
    def after_TD(self) -> Tensor:
        """The value that the model goes on with."""
        return self.value_TD + self.edit_TD


@dataclass(frozen=True)
class Trial:
    """A pass with edits: its final hidden states, and everything seen on the way.

    `projected` has the outputs of the modules whose input is a site; `witnessed` what the module
    behind a `resid_mid` received. `eps` is the relative rounding of the model's dtype.
    """

    final_TD: Tensor
    seen: dict[tuple[int, Site], Seen]
    projected: dict[tuple[int, Site], Tensor]
    witnessed: dict[int, Tensor]
    eps: float


def model_eps(decoder: Decoder) -> float:
    """Return the relative rounding of the coarsest dtype that activations of the model may have."""
    block = decoder.blocks[decoder.local_layers()[0]]
    known = (torch.float32, torch.float16, torch.bfloat16)
    found = [torch.finfo(each.dtype).eps for each in block.parameters() if each.dtype in known]
    return max(found, default=torch.finfo(torch.get_default_dtype()).eps)


def run_trial(decoder: Decoder, points: Iterable[HookPoint], run: Run) -> Trial:
    """Edit at every point, each by its own random amount, and run once.

    Raises:
        EngineError: a point was passed more or less than once.
    """
    ordered = sorted(points, key=lambda point: point.order)
    trial = Trial(torch.empty(0), {}, {}, {}, model_eps(decoder))
    with ExitStack() as stack:
        for point in ordered:
            if point.site in ("attn_heads", "mlp_neurons"):
                hook = _record_output(trial, point)
                stack.callback(point.module.register_forward_hook(hook).remove)
        for point in ordered:
            stack.callback(point.register(_tap(trial, point)))
        for point in ordered:
            if point.stream is not None:
                stack.callback(_witness(decoder, point).register(_record_witness(trial, point)))
        final_TD = run()
    for point in ordered:
        if (point.layer, point.site) not in trial.seen:
            raise EngineError(
                f"{point.site} of layer {point.layer}: {type(point.module).__name__} was not "
                "called in a forward pass, so nothing can be read there"
            )
    return replace(trial, final_TD=final_TD)


def random_edit(value_TD: Tensor, key: str) -> Tensor:
    """Draw a float32 edit that is small beside a value, the same for the same key. Pure."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    rms = float(value_TD.float().square().mean().sqrt())
    draw_TD = torch.randn(value_TD.shape, generator=generator)
    return (EDIT_SIZE * (rms or 1.0) * draw_TD).to(value_TD.device)


def _tap(trial: Trial, point: HookPoint) -> Callable[[Tensor, Tensor | None], Tensor]:
    key = (point.layer, point.site)

    def call(hidden_TD: Tensor, residual_TD: Tensor | None) -> Tensor:
        if key in trial.seen:
            raise EngineError(
                f"{point.site} of layer {point.layer}: {type(point.module).__name__} is called "
                "more than once in a forward pass; a tap has one value for each token"
            )
        value_TD, size_TD = hidden_TD.float().clone(), hidden_TD.float().abs()
        if residual_TD is not None:
            value_TD = value_TD + residual_TD.float()
            size_TD = size_TD + residual_TD.float().abs()
        edit_TD = random_edit(value_TD, f"{point.layer}/{point.site}")
        trial.seen[key] = Seen(value_TD, edit_TD, size_TD + edit_TD.abs(), hidden_TD.dtype)
        return (hidden_TD.float() + edit_TD).to(hidden_TD.dtype)

    return call


def _record_output(trial: Trial, point: HookPoint) -> Callable[..., None]:
    def hook(_: object, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
        tensor = output if isinstance(output, Tensor) else output[0]
        trial.projected[point.layer, point.site] = tensor.float().clone()

    return hook


def _witness(decoder: Decoder, point: HookPoint) -> HookPoint:
    name = decoder.layouts[point.layer].mid
    assert name is not None
    module = decoder.blocks[point.layer].get_submodule(name)
    return HookPoint(
        point.layer, point.site, module, "input", point.width, 0, point.total, Argument(0, "x")
    )


def _record_witness(trial: Trial, point: HookPoint) -> Callable[[Tensor, Tensor | None], None]:
    def call(hidden_TD: Tensor, _: Tensor | None) -> None:
        trial.witnessed[point.layer] = hidden_TD.float().clone()

    return call


# What the next block does with the second value that a block returns: some models hand on
# `(hidden, residual)` and add the two later; others return a second tensor that nobody uses. The
# shapes are the same, so it is tried: moving an amount from one to the other changes nothing where
# they are added, and changing the second alone changes nothing where it is unused.
SecondValue = Literal["none", "added", "unused"]
Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

LEAST_EFFECT = 1e-3
"""An edit that moves the final hidden states by less than this share is not seen."""
NO_EFFECT = 0.1
"""What changes nothing but rounding moves them by less than this share of an edit's effect."""


def second_value(decoder: Decoder, layer: int, run: Run) -> SecondValue:
    """Try what becomes of the second value behind a block; up to four tiny passes.

    Raises:
        EngineError: neither of the two, or the block's output does not reach the model's.
    """
    plain_TD, has_second = _run_and_look(decoder, layer, run)

    def effect(change: Change) -> float:
        return distance(_changed(decoder, layer, run, change), plain_TD)

    def edit(hidden: Tensor, second: Tensor) -> Tensor:
        size = hidden.abs() + second.abs()
        return random_edit(size, f"{layer}/second").to(hidden.dtype)

    if not has_second:
        return "none"
    control = effect(lambda hidden, second: (hidden + edit(hidden, second), second))
    if control < LEAST_EFFECT:
        raise EngineError(
            f"an edit behind layer {layer} of {decoder.architecture} moves the model's result by "
            f"{control:.1e} of its length only: what this block returns is not the residual stream"
        )
    moved = effect(
        lambda hidden, second: (hidden + edit(hidden, second), second - edit(hidden, second))
    )
    if moved < NO_EFFECT * control:
        return "added"
    alone = effect(lambda hidden, second: (hidden, second + edit(hidden, second)))
    if alone < NO_EFFECT * control:
        return "unused"
    raise EngineError(
        f"layer {layer} of {decoder.architecture} returns two tensors that are neither added "
        f"(moving an edit from one to the other has {moved / control:.2f} of the edit's effect) "
        f"nor is the second unused (editing it has {alone / control:.2f})"
    )


def distance(a_TD: Tensor, b_TD: Tensor) -> float:
    """Median over tokens of |a - b| / |b|: single tokens may take another expert. Pure."""
    norms_T = b_TD.float().norm(dim=-1).clamp_min(1e-20)
    return float(((a_TD.float() - b_TD.float()).norm(dim=-1) / norms_T).median())


def _run_and_look(decoder: Decoder, layer: int, run: Run) -> tuple[Tensor, bool]:
    found = []

    def hook(_: object, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
        pair = isinstance(output, tuple) and len(output) > 1 and isinstance(output[1], Tensor)
        found.append(pair and output[1].shape == output[0].shape)

    handle = decoder.blocks[layer].register_forward_hook(hook)
    try:
        return run().clone(), any(found)
    finally:
        handle.remove()


def _changed(decoder: Decoder, layer: int, run: Run, change: Change) -> Tensor:
    def hook(_: object, __: object, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (*change(output[0], output[1]), *output[2:])

    handle = decoder.blocks[layer].register_forward_hook(hook)
    try:
        return run()
    finally:
        handle.remove()
