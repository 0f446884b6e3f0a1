"""Numbers of each foreign layout land at the right layer and site, with the right sign.

Each case edits tokens by the library's own formula, on the numbers its file was written from, and
by our program on what the import made of the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pilothouse.artifacts.catalog import Source, load_source
from pilothouse.artifacts.transform import Transform
from pilothouse.artifacts.vector import Vector
from pilothouse.edits.program import compile_program
from pilothouse.edits.sources import Sources
from pilothouse.term import SteerTerm
from pilothouse.types import Site, Tap
from tests.support.artifacts import vector_files as writers
from tests.support.artifacts.import_command import imported, run_import
from tests.support.artifacts.vector_files import D, H, N, direction, draw

PICKLED = "--allow-pickle-weights"


def edited(source: Source, tokens: np.ndarray, tap: Tap, **term: object) -> np.ndarray:
    terms = [SteerTerm.model_validate({"vector": "it"} | term)]
    program = compile_program(terms, Sources({"it": source}, num_layers=6))
    assert program is not None
    assert set(program.layers) == {Tap(layer, source.site) for layer in source.layers}
    return program.layers[tap].apply(tokens, program.coefficient)


def check_directions(source: Source, site: Site, wanted: dict[int, np.ndarray]) -> None:
    assert isinstance(source, Vector)
    assert (source.site, source.layers) == (site, tuple(sorted(wanted)))
    for layer, numbers in wanted.items():
        assert np.array_equal(source.direction_D(layer), numbers)
    tokens, layer = draw(4, source.width, seed=9), min(wanted)
    moved = edited(source, tokens, Tap(layer, site), scale=1.5)
    assert np.allclose(moved, tokens + 1.5 * wanted[layer], atol=1e-6)


def test_a_gguf_vector_is_added_to_the_output_of_the_block_it_names(tmp_path: Path) -> None:
    writers.write_gguf(tmp_path / "v.gguf")
    source = imported(tmp_path / "v.gguf", "gguf", "--norms", "4,5")
    check_directions(source, "resid_post", {2: direction(2), 3: direction(3)})
    assert [source.residual_norm(layer) for layer in (2, 3)] == [4, 5]


def test_chosen_layers_of_a_gguf_vector_come_alone(tmp_path: Path) -> None:
    writers.write_gguf(tmp_path / "v.gguf", layers=(0, 1, 2, 3))
    source = imported(tmp_path / "v.gguf", "gguf", "--layer", "2-3", "--norms", "4,5")
    check_directions(source, "resid_post", {2: direction(2), 3: direction(3)})


def test_an_svec_lands_where_its_library_adds_it(tmp_path: Path) -> None:
    writers.write_svec(tmp_path / "v.svec")
    source = imported(tmp_path / "v.svec", "svec", "--norms", "4,5")
    check_directions(source, "resid_pre", {2: direction(2), 3: direction(3)})


def test_an_svec_can_land_where_it_was_measured(tmp_path: Path) -> None:
    writers.write_svec(tmp_path / "v.svec")
    source = imported(tmp_path / "v.svec", "svec", "--norms", "4,5", "--site", "resid_post")
    check_directions(source, "resid_post", {2: direction(2), 3: direction(3)})


def test_npy_rows_land_in_the_order_of_the_layers_given(tmp_path: Path) -> None:
    writers.write_npy(tmp_path / "v.npy")
    words = ("--layer", "4", "--layer", "2", "--norms", "4,5", "--site", "attn_out")
    source = imported(tmp_path / "v.npy", "npy", *words)
    check_directions(source, "attn_out", {4: direction(4), 2: direction(2)})
    assert source.residual_norm(2) == 4


def test_a_flat_npy_is_the_direction_of_one_layer(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.asfortranarray(direction(1).astype(np.float64)))
    source = imported(tmp_path / "v.npy", "npy", "--layer", "1", "--norms", "4")
    check_directions(source, "resid_post", {1: direction(1)})


def test_safetensors_land_by_name(tmp_path: Path) -> None:
    writers.write_safetensors(tmp_path / "v.safetensors")
    words = ("--layer", "2=a", "--layer", "3=b", "--norms", "4,5")
    source = imported(tmp_path / "v.safetensors", "safetensors", *words)
    check_directions(source, "resid_post", {2: direction(2), 3: direction(3)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_one_safetensors_array_of_any_float_lands_by_row(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    from safetensors.torch import save_file

    rows = torch.from_numpy(np.stack([direction(2), direction(3)])).to(dtype)
    save_file({"rows": rows}, tmp_path / "v.safetensors")
    words = ("--layer", "2-3", "--norms", "4,5")
    source = imported(tmp_path / "v.safetensors", "safetensors", *words)
    check_directions(source, "resid_post", {2: rows[0].float().numpy(), 3: rows[1].float().numpy()})


@pytest.mark.parametrize("name", ["", "direction.pt"])
def test_a_refusal_direction_lands_at_the_input_of_its_block(tmp_path: Path, name: str) -> None:
    writers.write_refusal(tmp_path / "run")
    place = tmp_path / "run" / name
    out = tmp_path / "here"
    done = run_import(place, "refusal-direction", PICKLED, "--norms", "4", out=out)
    assert done.exit_code == 0, done.output
    check_directions(load_source("it", out), "resid_pre", {3: direction(3)})


@pytest.mark.parametrize(
    ("layer_type", "site"),
    [("decoder_block", "resid_post"), ("self_attn", "attn_out"), ("mlp", "mlp_out")],
)
def test_a_steering_vector_lands_at_the_output_of_its_layer_type(
    tmp_path: Path, layer_type: str, site: Site
) -> None:
    writers.write_steering_vector(tmp_path / "v.pt", layer_type)
    source = imported(tmp_path / "v.pt", "steering-vectors", PICKLED, "--norms", "4,5")
    rounded = {each: torch.from_numpy(direction(each)).bfloat16().float() for each in (2, 3)}
    check_directions(source, site, {layer: each.numpy() for layer, each in rounded.items()})


def test_loreft_edits_as_pyreft_does(tmp_path: Path) -> None:
    writers.write_loreft(tmp_path / "reft")
    source = imported(tmp_path / "reft", "loreft", PICKLED, "--norms", "4,5")
    assert isinstance(source, Transform)
    assert (source.form, source.site, source.layers) == ("lowrank", "resid_post", (1, 4))
    tokens = draw(5, D, seed=3)
    for layer in source.layers:
        parts = {name: each.numpy().astype(float) for name, each in writers.loreft(layer).items()}
        rotated = tokens @ parts["rotate_layer"]
        learned = tokens @ parts["weight"].T + parts["bias"]
        wanted = tokens + (learned - rotated) @ parts["rotate_layer"].T
        got = edited(source, tokens, Tap(layer, "resid_post"), scale=1.0)
        assert np.allclose(got, wanted, atol=1e-5)


def test_austeer_scales_the_strongest_units_by_their_signed_score(tmp_path: Path) -> None:
    writers.write_austeer(tmp_path / "units")
    words = ("--top", "3", "--width", str(H), "--d-model", str(D), "--site", "attn_heads")
    source = imported(tmp_path / "units", "austeer", PICKLED, *words, "--norms", "4,5")
    assert (source.site, source.layers, source.width) == ("attn_heads", (0, 3), H)
    tokens = draw(5, H, seed=3)
    masks = {0: np.zeros(H), 3: np.zeros(H)}
    masks[0][4], masks[3][9], masks[3][2] = -0.9, -0.8, 0.7
    for layer, mask in masks.items():
        got = edited(source, tokens, Tap(layer, "attn_heads"), scale=5.0)
        assert np.allclose(got, tokens * (1 + 5.0 * mask), atol=1e-5)


def transported(tokens: np.ndarray, state: dict[str, object], strength: float) -> np.ndarray:
    slope, shift = (np.asarray(state[name])[0] for name in ("net.w1", "net.b1"))
    low, high = (np.asarray(each) for each in state["quantiles_dict_src"]["q_0.1"])  # type: ignore[index]
    inside = (low < tokens) & (tokens < high)
    moved = strength * (slope * tokens + shift) + (1 - strength) * tokens
    return np.where(inside, moved, tokens)


def test_linear_act_moves_values_within_the_source_quantiles(tmp_path: Path) -> None:
    writers.write_act(tmp_path / "act")
    source = imported(tmp_path / "act", "act", PICKLED, "--norms", "4,5")
    assert (source.site, source.layers) == ("mlp_out", (1, 2))
    tokens = 3 * draw(40, D, seed=3)
    for layer in source.layers:
        wanted = transported(tokens, writers.act_linear(layer), 0.7)
        got = edited(source, tokens, Tap(layer, "mlp_out"), scale=0.7)
        assert np.allclose(got, wanted, atol=1e-5)
        assert 0.1 < np.isclose(wanted, tokens).mean() < 0.9


@pytest.mark.parametrize("name", ["act", "act-mean"])
def test_gaussian_act_goes_from_source_to_target(tmp_path: Path, name: str) -> None:
    writers.write_act_gaussian(tmp_path / "act")
    source = imported(tmp_path / "act", name, PICKLED, "--norms", "4")
    parts = writers.act_gaussian(3)
    mu1, mu2, std1, std2 = (parts[each].numpy() for each in ("mu1", "mu2", "std1", "std2"))
    tokens = draw(20, D, seed=3)
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = tokens - mu1 + mu2 if name == "act-mean" else std2 / std1 * (tokens - mu1) + mu2
    wanted[:, std1 == 0] = tokens[:, std1 == 0]
    got = edited(source, tokens, Tap(3, "resid_post"), scale=1.0)
    assert np.allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize(("site", "shift"), [("resid_mid", 0), ("resid_pre", 5)])
def test_an_angular_plane_turns_as_the_reference_does(
    tmp_path: Path, site: Site, shift: int
) -> None:
    writers.write_angular(tmp_path / "v.npy")
    source = imported(tmp_path / "v.npy", "angular", PICKLED, "--site", site, "--norms", "4,5")
    assert (source.site, source.layers) == (site, (2, 3))
    tokens, angle = draw(6, D, seed=3), np.radians(160.0)
    for layer in source.layers:
        first, second = (each.astype(float) for each in writers.planes(layer + shift).values())
        one = first / np.linalg.norm(first)
        two = second - (second @ one) * one
        two /= np.linalg.norm(two)
        inside = np.outer(tokens @ one, one) + np.outer(tokens @ two, two)
        radius = np.linalg.norm(inside, axis=1, keepdims=True)
        wanted = tokens - inside + radius * (np.cos(angle) * one + np.sin(angle) * two)
        got = edited(source, tokens, Tap(layer, site), value=160.0)
        assert np.allclose(got, wanted, atol=1e-4)


def test_an_snmf_feature_is_a_direction_of_neurons(tmp_path: Path) -> None:
    writers.write_snmf(tmp_path / "f.pt")
    words = ("--feature", "2", "--d-model", str(D), "--norms", "4")
    source = imported(tmp_path / "f.pt", "snmf", PICKLED, *words)
    assert (source.d_model, source.width) == (D, N)
    check_directions(source, "mlp_neurons", {2: draw(N, 4, seed=7)[:, 2]})
