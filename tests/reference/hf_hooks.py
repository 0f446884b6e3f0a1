"""Oracle: the same edits and reads by forward hooks on transformers' own models.

Shape suffixes: T tokens of one sequence, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig

from tests.support.models.plain_transformers import causal_class

BLOCKS = ("model.layers", "transformer.h", "model.decoder.layers", "gpt_neox.layers")


@dataclass(frozen=True)
class HookedEdit:
    """Add `delta_D` behind block `layer` at positions [start, stop)."""

    layer: int
    delta_D: np.ndarray
    start: int = 0
    stop: int = 1 << 30


@dataclass(frozen=True)
class HookedChange:
    """Replace each token's stream behind block `layer` by `change(h_TD)`, in float64."""

    layer: int
    change: Callable[[np.ndarray], np.ndarray]
    start: int = 0
    stop: int = 1 << 30


@dataclass(frozen=True)
class HookedRun:
    """Log-probabilities [T, V] of the next token at each position, and the stream at each block.

    `streams[layer]` is [T, D], seen before the edits of that layer.
    """

    logprobs_TV: np.ndarray
    streams: dict[int, np.ndarray]


AnyEdit = HookedEdit | HookedChange


class HookedModel:
    """A causal model of transformers, run on whole sequences without a KV cache."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        model_class = causal_class(AutoConfig.from_pretrained(folder))
        self.model = model_class.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager"
        ).eval()
        self.blocks = _blocks(self.model)

    def run(self, token_ids: Sequence[int], edits: Sequence[AnyEdit] = ()) -> HookedRun:
        """One forward pass over a sequence."""
        streams: dict[int, np.ndarray] = {}
        with ExitStack() as stack, torch.no_grad():
            for layer, block in enumerate(self.blocks):
                mine = [edit for edit in edits if edit.layer == layer]
                handle = block.register_forward_hook(_hook(layer, mine, streams))
                stack.callback(handle.remove)
            logits_TV = self.model(torch.tensor([list(token_ids)]), use_cache=False).logits[0]
        return HookedRun(torch.log_softmax(logits_TV.float(), -1).numpy(), streams)

    def generate(
        self, prompt: Sequence[int], count: int, edits: Sequence[AnyEdit] = ()
    ) -> list[int]:
        """Greedy continuation; every step recomputes the whole sequence."""
        token_ids = list(prompt)
        for _ in range(count):
            token_ids.append(int(self.run(token_ids, edits).logprobs_TV[-1].argmax()))
        return token_ids[len(prompt) :]


def _blocks(model: nn.Module) -> list[nn.Module]:
    for path in BLOCKS:
        try:
            return list(attrgetter(path)(model))
        except AttributeError:
            continue
    raise ValueError(f"{type(model).__name__}: no decoder blocks at any of {BLOCKS}")


def _hook(layer: int, edits: list[AnyEdit], streams: dict[int, np.ndarray]) -> Any:
    def hook(_: nn.Module, __: object, output: Any) -> Any:
        hidden: Tensor = output if isinstance(output, Tensor) else output[0]
        streams[layer] = hidden[0].float().numpy().copy()
        if not edits:
            return output
        edited = hidden.float().clone()
        for edit in edits:
            if isinstance(edit, HookedEdit):
                edited[0, edit.start : edit.stop] += torch.from_numpy(edit.delta_D)
                continue
            here_TD = edited[0, edit.start : edit.stop]
            if len(here_TD):
                changed_TD = edit.change(here_TD.double().numpy())
                edited[0, edit.start : edit.stop] = torch.from_numpy(changed_TD).float()
        edited = edited.to(hidden.dtype)
        return edited if isinstance(output, Tensor) else (edited, *output[1:])

    return hook
