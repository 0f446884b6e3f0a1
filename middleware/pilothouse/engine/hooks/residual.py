"""What the next block does with the second value that a block returns.

Some models hand on `(hidden, residual)` and add the two later; others return a second tensor that
nobody uses. The shapes are the same, so it is tried: moving an amount from one to the other
changes nothing where they are added, and changing the second alone changes nothing where it is
unused.

Shape suffixes: T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from pilothouse.engine.hooks.decoder import Decoder
from pilothouse.engine.hooks.hook_trial import Run, random_edit
from pilothouse.errors import EngineError

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

    def hook(_: Any, __: Any, output: Any) -> None:
        pair = isinstance(output, tuple) and len(output) > 1 and isinstance(output[1], Tensor)
        found.append(pair and output[1].shape == output[0].shape)

    handle = decoder.blocks[layer].register_forward_hook(hook)
    try:
        return run().clone(), any(found)
    finally:
        handle.remove()


def _changed(decoder: Decoder, layer: int, run: Run, change: Change) -> Tensor:
    def hook(_: Any, __: Any, output: Any) -> Any:
        return (*change(output[0], output[1]), *output[2:])

    handle = decoder.blocks[layer].register_forward_hook(hook)
    try:
        return run()
    finally:
        handle.remove()
