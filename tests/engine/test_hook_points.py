"""Hook points: every site reads what transformers computes, and an edit there does the same.

Also a program (`python -m tests.engine.test_hook_points gpt2 --compiled`), for settings that need
a process of their own.

Shape suffixes: T positions, V vocabulary, D width of a site.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pilothouse.engine.hooks.hook_point import (
    Argument,
    HookPoint,
    edited,
    read_point,
    replace_hidden,
)
from pilothouse.errors import EngineError
from tests.reference.hf_sites import SiteModel
from tests.support.engines.harness import Engine, all_logprobs, engine
from tests.support.engines.hooked_worker import HOOKED_WORKER
from tests.support.engines.own_process import said_by
from tests.support.models.tiny_architectures import architectures, make_architecture

QUICK = ("llama", "gemma3", "gpt2", "mixtral", "falcon", "olmo2", "granite")
TOLERANCE = 1e-4
LEAST_MOVE = 0.05
LEAST_MISS = 0.01
LAYER = 1
PROMPT = np.random.default_rng(5).integers(3, 256, 23).tolist()
NATIVE_ROPE = {"custom_ops": ["none", "-rotary_embedding"]}
"""vLLM's CPU kernel turns DeepSeek's queries wrongly: its plain torch form agrees."""


def check_sites(
    name: str, folder: Path, *, compiled: bool = False, workers: int = 1
) -> dict[str, float]:
    """Compare every site of a tiny model with transformers; the largest error of each."""
    make_architecture(folder, name)
    settings: dict[str, Any] = {"worker_cls": HOOKED_WORKER, "enforce_eager": not compiled}
    if name.startswith("deepseek"):
        settings["compilation_config"] = NATIVE_ROPE
    if workers > 1:
        settings |= {"tensor_parallel_size": workers, "distributed_executor_backend": "mp"}
    with engine(folder, None, **settings) as started:
        oracle = SiteModel(folder, name)
        sites = started.llm.collective_rpc("hooked_sites")[0]
        errors = _check_reads(started, sites, oracle)
        for site in sites[LAYER]:
            errors[site] = max(errors[site], _check_edit(started, oracle, site))
    return errors


def _values(started: Engine, layer: int, site: str) -> np.ndarray:
    """What the last pass read, the ranks' parts put together."""
    ranks = started.llm.collective_rpc("hooked_values", args=(layer, site, len(PROMPT)))
    parts = {start: values_TD for start, values_TD in ranks}
    return np.concatenate([parts[start] for start in sorted(parts)], axis=1)


def _check_reads(started: Engine, sites: dict[int, Any], oracle: SiteModel) -> dict[str, float]:
    started.run([PROMPT], started.params(max_tokens=1))
    want = oracle.run(PROMPT).values
    errors: dict[str, float] = {}
    for layer, site in ((layer, site) for layer, here in sites.items() for site in here):
        want_TD = want[layer, "resid_pre" if site == "embed" else site]
        error = float(np.abs(_values(started, layer, site) - want_TD).max())
        assert error <= TOLERANCE, f"{site} of layer {layer} differs by {error:.1e}"
        assert np.abs(want_TD).max() > LEAST_MOVE
        errors[site] = max(errors.get(site, 0.0), error)
    return errors


def _check_edit(started: Engine, oracle: SiteModel, site: str) -> float:
    values_TD = oracle.run(PROMPT).values[LAYER, site]
    draw_D = np.random.default_rng(1).normal(size=values_TD.shape[1])
    edit_D = (2 * np.abs(values_TD).mean() * draw_D).astype(np.float32)
    started.llm.collective_rpc("hooked_edit", args=(LAYER, site, edit_D))
    output = started.run([PROMPT], started.params(max_tokens=4, logprobs=-1))[0]
    started.llm.collective_rpc("hooked_edit", args=(LAYER, site, None))
    tokens = [*PROMPT, *output.outputs[0].token_ids]

    def expected(edits: dict[tuple[int, str], np.ndarray]) -> np.ndarray:
        return oracle.run(tokens, edits).logprobs_TV[len(PROMPT) - 1 : -1]

    want_TV, got_TV = expected({(LAYER, site): edit_D}), all_logprobs(output)
    error = float(np.abs(got_TV - want_TV).max())
    assert error <= TOLERANCE, f"an edit at {site} differs by {error:.1e}"
    moved = float(np.abs(want_TV - expected({})).max())
    assert moved >= LEAST_MOVE, f"an edit at {site} moves the reference by {moved:.3f} only"
    for mistake, edits in {
        "the next layer": {(LAYER + 1, site): edit_D},
        "the other sign": {(LAYER, site): -edit_D},
    }.items():
        missed = np.abs(got_TV - expected(edits)).max()
        assert missed >= LEAST_MISS, f"{site}: {mistake} would pass ({missed:.1e})"
    return error


@pytest.mark.engine
@pytest.mark.parametrize("name", QUICK)
def test_every_site_equals_transformers(name: str, tmp_path: Path) -> None:
    assert max(check_sites(name, tmp_path).values()) <= TOLERANCE


@pytest.mark.engine
@pytest.mark.full
@pytest.mark.parametrize("name", sorted(set(architectures()) - set(QUICK)))
def test_every_site_of_every_known_architecture_equals_transformers(
    name: str, tmp_path: Path
) -> None:
    assert max(check_sites(name, tmp_path).values()) <= TOLERANCE


@pytest.mark.engine
@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["llama", "gpt2", "falcon_sequential", "gpt_neox_sequential"])
def test_every_site_equals_transformers_when_compiled(name: str, tmp_path: Path) -> None:
    agrees(tmp_path, name, "--compiled")


@pytest.mark.engine
@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["llama", "gpt2", "cohere", "gpt_neox_sequential"])
def test_every_site_equals_transformers_with_two_workers(name: str, tmp_path: Path) -> None:
    agrees(tmp_path, name, "--workers", "2")


def agrees(cache: Path, *arguments: str) -> None:
    """Run this module's check as a program."""
    assert "sites agree" in said_by("tests.engine.test_hook_points", cache, *arguments)


@pytest.mark.engine
@pytest.mark.parametrize("name", ["falcon", "mixtral"])
def test_a_site_that_does_not_exist_is_refused_with_what_to_use(name: str, tmp_path: Path) -> None:
    make_architecture(tmp_path, name)
    site, why, use = {
        "falcon": ("resid_mid", "same input", "use resid_post"),
        "mixtral": ("mlp_neurons", "no such place", "use mlp_out"),
    }[name]
    with engine(tmp_path, None, worker_cls=HOOKED_WORKER) as started:
        decoder = started.core.model_executor.driver_worker.worker.decoder
        with pytest.raises(EngineError, match=f"{site} of layer 1.*{why}.*{use}"):
            decoder.point(1, site)
        with pytest.raises(EngineError, match="this process has layers"):
            decoder.point(99, "resid_post")
        with pytest.raises(EngineError, match="ask for it there"):
            decoder.point(1, "embed")


def point(side: Any = "output", **changes: Any) -> HookPoint:
    return HookPoint(0, "resid_post", nn.Identity(), side, 8, 0, 8, **changes)


SECOND = Argument(1, "residual")


def test_replacing_what_was_read_changes_nothing() -> None:
    hidden_TD, residual_TD = torch.randn(5, 8), torch.randn(5, 8)
    for values, residual in (
        (hidden_TD, None),
        ((hidden_TD, residual_TD), SECOND),
        ((hidden_TD, None), SECOND),
    ):
        at = point(residual=residual)
        again = replace_hidden(at, values, read_point(at, values)[0])
        assert read_point(at, again)[0] is not None
        assert type(again) is type(values)
        assert torch.equal(read_point(at, again)[0], hidden_TD)


def test_a_keyword_is_found_as_well_as_a_place() -> None:
    hidden_TD = torch.randn(5, 8)
    at = point("input", hidden=Argument(1, "hidden_states"))
    for values in ((("positions", hidden_TD), {}), ((), {"hidden_states": hidden_TD})):
        assert torch.equal(read_point(at, values)[0], hidden_TD)
        args, kwargs = replace_hidden(at, values, hidden_TD + 1)
        assert torch.equal(read_point(at, (args, kwargs))[0], hidden_TD + 1)
        assert len(args) == len(values[0])


def test_a_batch_dimension_is_dropped_and_put_back() -> None:
    at, hidden = point(), torch.randn(1, 5, 8)
    assert read_point(at, hidden)[0].shape == (5, 8)
    assert replace_hidden(at, hidden, torch.zeros(5, 8)).shape == (1, 5, 8)


def test_an_edit_of_zero_gives_the_same_bits_at_any_scale() -> None:
    hidden_TD = torch.randn(50, 8)
    at = point(scale=0.3)
    assert torch.equal(edited(at, hidden_TD, lambda hidden, _: hidden + 0.0), hidden_TD)
    moved = edited(at, hidden_TD, lambda hidden, _: hidden + 3.0)
    assert torch.allclose(moved, hidden_TD + 10.0, atol=1e-5)


def test_a_tensor_of_another_width_is_refused() -> None:
    with pytest.raises(EngineError, match="wanted a tensor of width 8"):
        read_point(point(), torch.randn(5, 9))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=sorted(architectures()))
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        errors = check_sites(args.name, Path(folder), compiled=args.compiled, workers=args.workers)
    sys.stdout.write(f"{len(errors)} sites agree, largest error {max(errors.values()):.1e}\n")


if __name__ == "__main__":
    main()
