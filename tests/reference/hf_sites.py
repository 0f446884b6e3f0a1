"""Oracle: every site of transformers' own models, read and edited by forward hooks.

Written apart from the engine's table: names here are those of transformers.

Shape suffixes: T tokens of one sequence, V vocabulary, D width of a site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

BLOCKS = (
    "model.layers",
    "transformer.h",
    "model.decoder.layers",
    "gpt_neox.layers",
    "model.language_model.layers",
)


Edit = np.ndarray | Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Names:
    """Module names in a transformers block: attention, MLP, norms behind them, projections.

    `scale` is what attention and MLP are multiplied by before they are added.
    """

    attention: str = "self_attn"
    heads: str = "self_attn.o_proj"
    attention_norm: str | None = None
    mlp: str = "mlp"
    neurons: str | None = "mlp.down_proj"
    mlp_norm: str | None = None
    scale: float = 1.0


NAMES: dict[str, Names] = {
    "gemma2": Names(
        attention_norm="post_attention_layernorm", mlp_norm="post_feedforward_layernorm"
    ),
    "gemma3": Names(
        attention_norm="post_attention_layernorm", mlp_norm="post_feedforward_layernorm"
    ),
    "olmo2": Names(
        attention_norm="post_attention_layernorm", mlp_norm="post_feedforward_layernorm"
    ),
    "glm4": Names(attention_norm="post_self_attn_layernorm", mlp_norm="post_mlp_layernorm"),
    "gpt2": Names("attn", "attn.c_proj", neurons="mlp.c_proj"),
    "opt": Names(heads="self_attn.out_proj", mlp="fc2", neurons="fc2"),
    "gpt_neox": Names("attention", "attention.dense", neurons="mlp.dense_4h_to_h"),
    "gpt_neox_sequential": Names("attention", "attention.dense", neurons="mlp.dense_4h_to_h"),
    "falcon": Names("self_attention", "self_attention.dense", neurons="mlp.dense_4h_to_h"),
    "falcon_sequential": Names(
        "self_attention", "self_attention.dense", neurons="mlp.dense_4h_to_h"
    ),
    "granite": Names(scale=0.3),
}


@dataclass(frozen=True)
class SiteRun:
    """Log-probabilities [T, V] and the value at each (layer, site) [T, D], before edits."""

    logprobs_TV: np.ndarray
    values: dict[tuple[int, str], np.ndarray]


class SiteModel:
    """A causal model of transformers with its sites."""

    def __init__(self, folder: Path, name: str) -> None:
        self.model = (
            causal_class(AutoConfig.from_pretrained(folder))
            .from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
            .eval()
        )
        self.names = NAMES.get(name, Names())
        self.blocks: list[nn.Module] = _blocks(self.model)

    def run(
        self, token_ids: Sequence[int], edits: Mapping[tuple[int, str], Edit] | None = None
    ) -> SiteRun:
        """One pass; an edit at a site is a vector [D] added at every position, or what becomes of
        the values [T, D] there."""
        values: dict[tuple[int, str], np.ndarray] = {}
        with ExitStack() as stack, torch.no_grad():
            for layer, block in enumerate(self.blocks):
                recorder = _Recorder(layer, values, edits or {})
                for handle in recorder.install(block, self.names):
                    stack.callback(handle.remove)
            logits_TV = self.model(torch.tensor([list(token_ids)]), use_cache=False).logits[0]
        return SiteRun(torch.log_softmax(logits_TV.float(), -1).numpy(), values)


class _Recorder:
    """The hooks of one block."""

    def __init__(self, layer: int, values: dict[Any, Any], edits: Mapping[Any, Any]) -> None:
        self.layer, self.values, self.edits = layer, values, edits

    def install(self, block: nn.Module, names: Names) -> list[Any]:
        """Put hooks at every site; edits of `resid_mid` go to what attention adds."""
        sub, scale = block.get_submodule, names.scale
        handles = [
            block.register_forward_pre_hook(self._input("resid_pre"), with_kwargs=True),
            sub(names.heads).register_forward_pre_hook(self._input("attn_heads"), with_kwargs=True),
            sub(names.attention_norm or names.attention).register_forward_hook(
                self._output("attn_out", scale)
            ),
            sub(names.mlp_norm or names.mlp).register_forward_hook(self._output("mlp_out", scale)),
            block.register_forward_hook(self._output("resid_post", 1.0)),
        ]
        if names.neurons is not None and _has(block, names.neurons):
            handles.append(
                sub(names.neurons).register_forward_pre_hook(
                    self._input("mlp_neurons"), with_kwargs=True
                )
            )
        return handles

    def _input(self, site: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (self._edited(site, args[0], 1.0), *args[1:]), kwargs
            first = next(iter(kwargs))
            return args, kwargs | {first: self._edited(site, kwargs[first], 1.0)}

        return hook

    def _output(self, site: str, scale: float) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            if isinstance(output, Tensor):
                return self._edited(site, output, scale)
            return (self._edited(site, output[0], scale), *output[1:])

        return hook

    def _edited(self, site: str, value: Tensor, scale: float) -> Tensor:
        self.values[self.layer, site] = _numpy(value) * scale
        edited = self._add(site, value, scale)
        if site == "attn_out":
            self.values[self.layer, "resid_mid"] = self._after("resid_pre") + self._after(
                "attn_out"
            )
            edited = self._add("resid_mid", edited, scale)
        return edited

    def _add(self, site: str, value: Tensor, scale: float) -> Tensor:
        delta = self._delta(site)
        if delta is None:
            return value
        shift = torch.from_numpy((delta / scale).astype(np.float32))
        return value + shift.reshape(value.shape if delta.ndim > 1 else delta.shape)

    def _after(self, site: str) -> np.ndarray:
        delta = self._delta(site)
        value_TD = self.values[self.layer, site]
        return value_TD if delta is None else value_TD + delta

    def _delta(self, site: str) -> np.ndarray | None:
        edit = self.edits.get((self.layer, site))
        if not callable(edit):
            return edit
        value_TD = self.values[self.layer, site].astype(np.float64)
        return edit(value_TD) - value_TD


def _numpy(value: Tensor) -> np.ndarray:
    return value.reshape(-1, value.shape[-1]).float().numpy().copy()


def _has(block: nn.Module, name: str) -> bool:
    return name in dict(block.named_modules())


def _blocks(model: nn.Module) -> list[nn.Module]:
    for path in BLOCKS:
        try:
            return list(attrgetter(path)(model))
        except AttributeError:
            continue
    raise ValueError(f"{type(model).__name__}: no decoder blocks at any of {BLOCKS}")
