"""A worker with a test's own tap at every hook point: what each saw, and an edit for each.

Shape suffixes: N most tokens of a pass, T tokens of a sequence, D width on this rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pilothouse.engine.hooks import Decoder, HookPoint, check_model, open_decoder
from pilothouse.engine.hooks.tiny_forward import NUM_TOKENS
from pilothouse.engine.vllm.model_runner import (
    loaded_model,
    max_step_tokens,
    without_adapters,
    worker_base,
)
from pilothouse.types import Site

HOOKED_WORKER = "tests.support.engines.hooked_worker.HookedWorker"
Key = tuple[int, Site]


class HookedWorker(worker_base()):  # type: ignore[misc]
    """vLLM's worker of this platform, with taps at every site of every layer.

    `seen[layer, site]` [N, D] float32 is what was read in the last pass, `edits[layer, site]`
    [D] what is added: zero until a test fills it.
    """

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load, check, install."""
        super().load_model(*args, **kwargs)
        model = loaded_model(self.model_runner)
        with without_adapters(self.model_runner, NUM_TOKENS):
            self.decoder: Decoder = open_decoder(model, self.vllm_config)
            keys = [
                (layer, site)
                for layer in self.decoder.local_layers()
                for site in self.decoder.sites(layer)
            ]
            check_model(model, self.vllm_config, self.decoder, keys)
        self.seen: dict[Key, Tensor] = {}
        self.edits: dict[Key, Tensor] = {}
        self.points: dict[Key, HookPoint] = {}
        for key in keys:
            point = self.decoder.point(*key)
            self.points[key] = point
            self.seen[key] = torch.zeros(max_step_tokens(self.vllm_config), point.width)
            self.edits[key] = torch.zeros(point.width)
        for point in sorted(self.points.values(), key=lambda each: each.order):
            key = (point.layer, point.site)
            point.register(_tap(point.module, f"{point.site}", self.seen[key], self.edits[key]))

    def hooked_values(self, layer: int, site: Site, count: int) -> tuple[int, np.ndarray]:
        """(first element here, what the first `count` tokens of the last pass had)."""
        return self.points[layer, site].start, self.seen[layer, site][:count].numpy().copy()

    def hooked_edit(self, layer: int, site: Site, edit_D: np.ndarray | None) -> None:
        """Add this rank's part of a vector over the whole site from now on; None for nothing."""
        point = self.points[layer, site]
        part_D = np.zeros(point.total) if edit_D is None else edit_D
        part_D = part_D[point.start : point.start + point.width]
        self.edits[layer, site].copy_(torch.from_numpy(part_D))

    def hooked_sites(self) -> dict[int, tuple[Site, ...]]:
        """The sites of each layer."""
        return {layer: self.decoder.sites(layer) for layer in self.decoder.local_layers()}


def _tap(
    module: nn.Module, name: str, seen_ND: Tensor, edit_D: Tensor
) -> Callable[[Tensor, Tensor | None], Tensor]:
    module.register_buffer(f"test_{name}_seen", seen_ND, persistent=False)
    module.register_buffer(f"test_{name}_edit", edit_D, persistent=False)

    def call(hidden_TD: Tensor, residual_TD: Tensor | None) -> Tensor:
        value_TD = hidden_TD.float()
        if residual_TD is not None:
            value_TD = value_TD + residual_TD
        getattr(module, f"test_{name}_seen")[: hidden_TD.shape[0]] = value_TD
        edited_TD = hidden_TD.float() + getattr(module, f"test_{name}_edit")
        return edited_TD.to(hidden_TD.dtype)

    return call
