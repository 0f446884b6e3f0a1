"""The decoder blocks of a loaded model, and the hook point of any (layer, site) in them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PretrainedConfig
from vllm.distributed import (
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
)
from vllm.model_executor.models.utils import PPMissingLayer

from pilothouse.engine.hooks.hook_point import SITE_ORDER, Argument, HookPoint
from pilothouse.engine.hooks.layouts import Layout
from pilothouse.errors import EngineError
from pilothouse.types import Site

HIDDEN_NAMES = ("hidden_states", "x", "hidden", "inputs", "input_")
INSTEAD: dict[Site, str] = {
    "resid_mid": "resid_post, or attn_out and mlp_out",
    "attn_heads": "attn_out",
    "attn_out": "resid_post",
    "mlp_neurons": "mlp_out",
    "mlp_out": "resid_post",
}
_OUTPUT = Argument(0, "output")
_SECOND = Argument(1, "residual")


@dataclass(frozen=True, slots=True)
class Decoder:
    """Blocks and their layouts, one for each block, in order; all layers of the model.

    Layers of other pipeline stages are in `blocks` as placeholders. `origin` says where the
    layouts are from. `config` is the text model's.
    """

    architecture: str
    blocks: Sequence[nn.Module]
    layouts: Sequence[Layout]
    config: PretrainedConfig
    d_model: int
    origin: str

    def is_here(self, layer: int) -> bool:
        """Tell whether this pipeline stage has the layer."""
        return not isinstance(self.blocks[layer], PPMissingLayer)

    def local_layers(self) -> list[int]:
        """Return the layers of this pipeline stage."""
        return [layer for layer in range(len(self.blocks)) if self.is_here(layer)]

    def sites(self, layer: int) -> tuple[Site, ...]:
        """Return the sites that a layer has."""
        return tuple(site for site in SITE_ORDER if self._absence(layer, site) is None)

    def point(self, layer: int, site: Site) -> HookPoint:
        """Return where a tap of (layer, site) sits.

        Raises:
            EngineError: there is no such place; says why and what to use.
        """
        if not 0 <= layer < len(self.blocks) or not self.is_here(layer):
            raise EngineError(
                f"{site} of layer {layer}: this process has layers {self.local_layers()}"
            )
        absence = self._absence(layer, site)
        if absence is not None:
            raise EngineError(
                f"{site} of layer {layer} of {self.architecture} ({self.origin}): {absence}. "
                f"This layer has {', '.join(self.sites(layer))}"
            )
        if site in ("attn_heads", "mlp_neurons"):
            return self._projection(layer, site)
        return self._stream(layer, site)

    def _absence(self, layer: int, site: Site) -> str | None:
        """Return why a site does not exist, or None."""
        if site == "logits":
            return "logits are read by the sampler's own tap, not in a decoder block"
        if site == "embed" and layer != 0:
            return "the embedding enters layer 0: ask for it there"
        if site in ("embed", "resid_pre", "resid_post"):
            return None
        use = f"; use {INSTEAD[site]}"
        if site == "resid_mid" and self._is_parallel(layer):
            return f"attention and MLP read the same input, so nothing is between them{use}"
        name = self._name(layer, site)
        if name is None:
            return f"the architecture has no such place{use}"
        module = _submodule(self.blocks[layer], name)
        if module is None:
            return f"this block has no module {name} (a mixture of experts, or another mixer){use}"
        if self._is_partial(layer, site):
            return f"under tensor parallel each rank has only its part of {name}'s output{use}"
        if site in ("attn_heads", "mlp_neurons") and input_width(module) is None:
            return f"{name} is a {type(module).__name__}, which is no projection of vLLM's{use}"
        if site == "resid_mid" and not self.layouts[layer].deferred:
            return self._absence(layer, "attn_out")
        return None

    def _is_parallel(self, layer: int) -> bool:
        layout = self.layouts[layer]
        return layout.mid is None or any(
            getattr(self.config, flag, False) for flag in layout.parallel_if
        )

    def _is_partial(self, layer: int, site: Site) -> bool:
        """Tell whether the ranks' outputs are added up only after attention and MLP were."""
        if site not in ("attn_out", "mlp_out") or get_tensor_model_parallel_world_size() == 1:
            return False
        name = self._name(layer, "attn_heads" if site == "attn_out" else "mlp_neurons")
        projection = None if name is None else _submodule(self.blocks[layer], name)
        return getattr(projection, "reduce_results", True) is False

    def _name(self, layer: int, site: Site) -> str | None:
        layout = self.layouts[layer]
        names: dict[Site, str | None] = {
            "attn_heads": layout.heads,
            "attn_out": layout.attention_out,
            "resid_mid": layout.mid,
            "mlp_neurons": layout.neurons,
            "mlp_out": layout.mlp_out,
        }
        return names[site]

    def _module(self, layer: int, site: Site) -> nn.Module:
        name = self._name(layer, site)
        assert name is not None
        return self.blocks[layer].get_submodule(name)

    def _stream(self, layer: int, site: Site) -> HookPoint:
        block, layout, width = self.blocks[layer], self.layouts[layer], self.d_model
        if site in ("embed", "resid_pre"):
            return HookPoint(
                layer,
                site,
                block,
                "input",
                width,
                0,
                width,
                hidden=hidden_argument(block),
                residual=residual_argument(block) if layout.deferred else None,
            )
        if site == "resid_post":
            residual = _SECOND if layout.deferred else None
            return HookPoint(layer, site, block, "output", width, 0, width, _OUTPUT, residual)
        if site == "resid_mid" and layout.deferred:
            return HookPoint(
                layer,
                site,
                self._module(layer, site),
                "input",
                width,
                0,
                width,
                hidden=Argument(0, "x"),
                residual=_SECOND,
            )
        place: Site = "attn_out" if site == "resid_mid" else site
        return HookPoint(
            layer,
            site,
            self._module(layer, place),
            "output",
            width,
            0,
            width,
            hidden=_OUTPUT,
            residual=_SECOND,
            bias=True,
            scale=1.0 if layout.scale is None else layout.scale(block, self.config),
            stream=self._stream(layer, "resid_pre") if site == "resid_mid" else None,
        )

    def _projection(self, layer: int, site: Site) -> HookPoint:
        module = self._module(layer, site)
        width, total = input_width(module) or (0, 0)
        start = get_tensor_model_parallel_rank() * width if width < total else 0
        return HookPoint(
            layer, site, module, "input", width, start, total, hidden=Argument(0, "input_")
        )


def input_width(module: nn.Module) -> tuple[int, int] | None:
    """(on this rank, of the whole) input width of a projection of vLLM's; None for others."""
    linear = getattr(module, "base_layer", module)
    total = getattr(linear, "input_size", None)
    if not isinstance(total, int):
        return None
    return getattr(linear, "input_size_per_partition", total), total


def hidden_argument(block: nn.Module) -> Argument:
    """Return where a decoder block takes the stream.

    Raises:
        EngineError: no parameter has a name that says so.
    """
    names = _parameters(block)
    for name in HIDDEN_NAMES:
        if name in names:
            return Argument(names.index(name), name)
    raise EngineError(
        f"{type(block).__name__}.forward takes {names}, none of them one of {HIDDEN_NAMES}"
    )


def residual_argument(block: nn.Module) -> Argument | None:
    """Return where a decoder block takes the deferred residual, if it does."""
    names = _parameters(block)
    return Argument(names.index("residual"), "residual") if "residual" in names else None


def _parameters(block: nn.Module) -> list[str]:
    return list(inspect.signature(block.forward).parameters)


def _submodule(block: nn.Module, name: str) -> nn.Module | None:
    try:
        return block.get_submodule(name)
    except AttributeError:
        return None
