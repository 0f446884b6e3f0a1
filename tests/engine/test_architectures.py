"""The table, discovery, and the self-check that judges both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from pilothouse.engine.hooks import LAYOUTS, Decoder, Layout, add_layout, open_decoder
from pilothouse.engine.hooks.discovery import discover_layouts
from pilothouse.engine.hooks.self_check import check_hook_points
from pilothouse.engine.hooks.tiny_forward import tiny_forward
from pilothouse.errors import EngineError
from tests.support.engines.harness import engine
from tests.support.models.tiny_architectures import make_architecture

PARTS = ("attention_out", "heads", "mid", "mlp_out", "neurons", "deferred")


@contextmanager
def loaded(
    folder: Path, name: str, dtype: str = "float32"
) -> Iterator[tuple[nn.Module, Any, Decoder]]:
    """(model, vLLM's configuration, decoder) of a plain engine."""
    make_architecture(folder, name)
    with engine(folder, None, dtype=dtype) as started:
        worker = started.core.model_executor.driver_worker.worker
        model = worker.get_model()
        yield model, worker.vllm_config, open_decoder(model, worker.vllm_config)


def every_site(decoder: Decoder) -> list[tuple[int, Any]]:
    return [(layer, site) for layer in decoder.local_layers() for site in decoder.sites(layer)]


@pytest.mark.engine
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "mixtral", "olmo2", "opt"])
def test_discovery_finds_what_the_table_says(name: str, tmp_path: Path) -> None:
    with loaded(tmp_path, name) as (model, vllm_config, decoder):
        found = discover_layouts(decoder, partial(tiny_forward, model, vllm_config))
    for layout, known in zip(found, decoder.layouts, strict=True):
        assert {part: getattr(layout, part) for part in PARTS} == {
            part: getattr(known, part) for part in PARTS
        }


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    # A second value that nobody uses, taken for a part of the stream, and the other way round.
    "stablelm": ({"deferred": True}, "deferred=True.*not used"),
    "llama": ({"deferred": False}, "deferred=False.*added to the first"),
    "gpt2": ({"deferred": True}, "deferred=True.*absent"),
    # A norm behind attention, and a factor on it, overlooked.
    "gemma3": ({"attention_out": "self_attn"}, "resid_mid of layer 0 is not its input plus"),
    "granite": ({"scale": None}, "what follows resid_mid of layer 0 does not receive it"),
    # Parallel attention and MLP, taken for sequential.
    "gpt_neox": ({"parallel_if": ()}, "what follows resid_mid of layer 0 does not receive it"),
    # An attention module that is not where the stream gets its sum from.
    "opt": ({"mlp_out": "fc1", "neurons": None}, "mlp_out of layer|is not its input plus"),
}


@pytest.mark.engine
@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_layout_is_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    changes, message = WRONG[name]
    with loaded(tmp_path, name) as (model, vllm_config, decoder):
        run = partial(tiny_forward, model, vllm_config)
        check_hook_points(decoder, run, every_site(decoder))
        wrong = replace(decoder, layouts=[replace(layout, **changes) for layout in decoder.layouts])
        with pytest.raises(EngineError, match=message) as raised:
            check_hook_points(wrong, run, every_site(wrong))
    assert "Add a line for this architecture to LAYOUTS" in str(raised.value)


@pytest.mark.engine
@pytest.mark.parametrize("name", ["granite", "gemma3"])
def test_the_self_check_tells_right_from_wrong_in_bfloat16(name: str, tmp_path: Path) -> None:
    changes, message = WRONG[name]
    with loaded(tmp_path, name, "bfloat16") as (model, vllm_config, decoder):
        run = partial(tiny_forward, model, vllm_config)
        check_hook_points(decoder, run, every_site(decoder))
        layouts = [replace(layout, **changes) for layout in decoder.layouts]
        with pytest.raises(EngineError, match=message):
            check_hook_points(replace(decoder, layouts=layouts), run, every_site(decoder))


@pytest.mark.engine
def test_the_self_check_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    with loaded(tmp_path, "gpt2") as (model, vllm_config, decoder):
        before = _hooks(model)
        run = partial(tiny_forward, model, vllm_config)
        plain_TD = run().clone()
        check_hook_points(decoder, run, every_site(decoder))
        discover_layouts(decoder, run)
        assert _hooks(model) == before == 0
        assert not [name for name, module in model.named_modules() if "forward" in vars(module)]
        assert (run() == plain_TD).all()


def _hooks(model: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


@pytest.mark.engine
def test_a_model_that_is_not_in_the_table_is_found_by_structure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(LAYOUTS, "GPT2LMHeadModel")
    with loaded(tmp_path, "gpt2") as (model, vllm_config, decoder):
        assert decoder.origin == "found by structure at transformer.h"
        assert len(decoder.sites(1)) == 7
        check_hook_points(decoder, partial(tiny_forward, model, vllm_config), every_site(decoder))


@pytest.mark.engine
def test_an_entry_that_leads_nowhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LAYOUTS, "GPT2LMHeadModel", Layout(blocks="model.layers"))
    with (
        pytest.raises(
            EngineError, match=r"decoder blocks are at model\.layers, but GPT2LMHeadModel"
        ),
        loaded(tmp_path, "gpt2"),
    ):
        pass


def test_an_entry_is_not_added_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(LAYOUTS, "OlmoeForCausalLM")
    add_layout("OlmoeForCausalLM", Layout())
    with pytest.raises(EngineError, match="OlmoeForCausalLM has an entry"):
        add_layout("OlmoeForCausalLM", Layout())
