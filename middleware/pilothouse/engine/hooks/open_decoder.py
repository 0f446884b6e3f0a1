"""From a loaded model to its decoder: by the table, or by structure."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from operator import attrgetter

from torch import nn

from pilothouse.engine.hooks.decoder import Decoder
from pilothouse.engine.hooks.discovery import discover_layouts, find_blocks
from pilothouse.engine.hooks.layouts import LAYOUTS, Layout
from pilothouse.engine.hooks.self_check import check_hook_points
from pilothouse.engine.hooks.tiny_forward import tiny_forward
from pilothouse.engine.vllm.config_protocols import VllmConfig
from pilothouse.errors import EngineError
from pilothouse.types import Site


def open_decoder(model: nn.Module, vllm_config: VllmConfig) -> Decoder:
    """Return the decoder of a loaded model: its entry in the table, or else what is found in it.

    Inside a multimodal wrapper the language model is meant. Finding takes a few tiny passes.

    Raises:
        EngineError: no decoder blocks are found, or an entry's path leads nowhere.
    """
    model_config = vllm_config.model_config
    architecture: str = model_config.architecture
    config, d_model = model_config.hf_text_config, model_config.get_hidden_size()
    entry = _entry(model, architecture)
    if entry is not None:
        inner, name, layout = entry
        blocks = _blocks_at(inner, name, layout)
        return Decoder(
            architecture, blocks, [layout] * len(blocks), config, d_model, f"table entry {name}"
        )
    path, found = find_blocks(model, model_config.get_total_num_hidden_layers())
    decoder = Decoder(
        architecture, list(found), [], config, d_model, f"found by structure at {path}"
    )
    layouts = discover_layouts(decoder, partial(tiny_forward, model, vllm_config))
    return Decoder(architecture, decoder.blocks, layouts, config, d_model, decoder.origin)


def check_model(
    model: nn.Module, vllm_config: VllmConfig, decoder: Decoder, wanted: Iterable[tuple[int, Site]]
) -> None:
    """The self-check of a loaded model: `check_hook_points` with tiny passes through it."""
    check_hook_points(decoder, partial(tiny_forward, model, vllm_config), wanted)


def _entry(model: nn.Module, architecture: str) -> tuple[nn.Module, str, Layout] | None:
    """(the model that has the blocks, the entry's name, the entry), if the table has one."""
    inner = _language_model(model)
    for candidate, name in (
        (model, type(model).__name__),
        (model, architecture),
        (inner, type(inner).__name__),
    ):
        layout = LAYOUTS.get(name)
        is_transformers = type(candidate).__name__.startswith("Transformers")
        if layout is not None and layout.transformers == is_transformers:
            return candidate, name, layout
    return None


def _language_model(model: nn.Module) -> nn.Module:
    get = getattr(model, "get_language_model", None)
    inner = get() if callable(get) else getattr(model, "language_model", model)
    return inner if isinstance(inner, nn.Module) else model


def _blocks_at(model: nn.Module, name: str, layout: Layout) -> list[nn.Module]:
    try:
        return list(attrgetter(layout.blocks)(model))
    except AttributeError as error:
        raise EngineError(
            f"the entry {name} of LAYOUTS says that decoder blocks are at {layout.blocks}, but "
            f"{type(model).__name__} has no such modules: {error}"
        ) from error
