"""Baked models are what hooks on the unbaked model do, by transformers alone."""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from pilothouse.artifacts.transform import build_transform, save_transform
from pilothouse.artifacts.vector import Vector, build_vector, load_vector, save_vector
from pilothouse.bake import bake, bake_program, steering_of_profile, steering_of_vector
from pilothouse.bake.parity import Parity
from pilothouse.cli.vector import app
from pilothouse.edits.program import Program, compile_program
from pilothouse.edits.sources import Sources
from pilothouse.errors import ConfigError
from pilothouse.term import SteerTerm
from pilothouse.types import PROJECTION_SITES, Site
from tests.reference.hf_sites import SiteModel
from tests.support.models.tiny_architectures import D_MODEL, NUM_LAYERS, make_architecture

TOKENS = [5, 17, 101, 64, 3, 200, 9, 33]
TOLERANCE = 1e-4
MOVED = 0.05


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders of tiny models, each made when it is first asked for."""
    made: dict[str, Path] = {}

    def model(name: str) -> Path:
        if name not in made:
            made[name] = make_architecture(tmp_path_factory.mktemp(name) / name, name)
        return made[name]

    return model


def vector(folder: Path, model: str, site: Site, width: int = D_MODEL, size: float = 2.0) -> Path:
    """A vector with a direction at layers 1 and 2."""
    draw = np.random.default_rng(len(site))
    made = build_vector(
        "it",
        model_id=model,
        layers=(1, 2),
        site=site,
        created_by="a test",
        directions_LD=(size * draw.normal(size=(2, width))).astype(np.float32),
        residual_norms_L=np.ones(2, np.float32),
        d_model=D_MODEL if site in PROJECTION_SITES else None,
    )
    save_vector(made, folder / f"vector-{site}")
    return folder / f"vector-{site}"


def run(model: Path, out: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["bake", str(model), "--out", str(out), *words])


def program(place: Path, **term: Any) -> Program:
    source = load_vector("it", place)
    made = compile_program(
        [SteerTerm.model_validate({"vector": "it", "on": "all"} | term)],
        Sources({"it": source}, num_layers=NUM_LAYERS),
    )
    assert made is not None
    return made


def hooked(model: Path, name: str, done: Program) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities without and with the program, by hooks."""
    oracle = SiteModel(model, name)
    edits: dict[Any, Any] = {}
    for tap, edit in done.layers.items():
        at = (0, "resid_pre") if tap.site == "embed" else (tap.layer, tap.site)
        edits[at] = lambda h_TD, edit=edit: edit.apply(h_TD, done.coefficient)
    return oracle.run(TOKENS).logprobs_TV, oracle.run(TOKENS, edits).logprobs_TV


def agrees(model: Path, baked: Path, name: str, baked_name: str, done: Program) -> None:
    """The baked model is the hooked one, and that is another than the plain one."""
    plain_TV, wanted_TV = hooked(model, name, done)
    got_TV = SiteModel(baked, baked_name).run(TOKENS).logprobs_TV
    assert np.abs(wanted_TV - plain_TV).max() > MOVED
    assert np.abs(got_TV - wanted_TV).max() < TOLERANCE


SHIFTS: list[tuple[str, Site]] = [
    ("llama", "resid_post"),
    ("llama", "resid_mid"),
    ("llama", "resid_pre"),
    ("llama", "attn_out"),
    ("mistral", "mlp_out"),
    ("qwen2", "resid_post"),
    ("qwen2", "attn_out"),
    ("gpt2", "resid_mid"),
    ("gpt2", "mlp_out"),
    ("gpt_neox", "resid_post"),
    ("gpt_neox_sequential", "resid_mid"),
]


@pytest.mark.parametrize(("name", "site"), SHIFTS)
def test_a_constant_is_a_bias(models: Any, tmp_path: Path, name: str, site: Site) -> None:
    model, place = models(name), vector(tmp_path, name, site)
    result = run(model, tmp_path / "baked", "--vector", str(place), "--scale", "1.5")
    assert result.exit_code == 0, result.output
    assert "as        checkpoint" in result.output
    record = json.loads((tmp_path / "baked" / "pilothouse_bake.json").read_text())
    assert (record["biases"], record["rank"]) == (2, None)
    as_llama = name in ("mistral", "qwen2")
    done = program(place, scale=1.5)
    agrees(model, tmp_path / "baked", name, "llama" if as_llama else name, done)


def test_a_vector_and_a_profile_are_baked_from_python(models: Any, tmp_path: Path) -> None:
    model, place = models("llama"), vector(tmp_path, "llama", "mlp_out")
    titles: list[str] = []

    def waiting(title: str) -> AbstractContextManager[object]:
        titles.append(title)
        return nullcontext()

    record = bake(model, tmp_path / "one", steering_of_vector(place, scale=1.5), waiting=waiting)
    assert record == json.loads((tmp_path / "one" / "pilothouse_bake.json").read_text())
    assert len(titles) == 1
    agrees(model, tmp_path / "one", "llama", "llama", program(place, scale=1.5))
    (tmp_path / "pilothouse.yaml").write_text(
        f"version: 1\nmodel_id: llama\nvectors: {{it: {{path: {place.name}}}}}\n"
        'profiles: {"m:it": {steer: [{vector: it, scale: 1.5, on: all}]}, "m:no": {steer: []}}\n'
    )
    steering = steering_of_profile(tmp_path / "pilothouse.yaml", "m:it")
    assert bake(model, tmp_path / "other", steering)["program"] == record["program"]
    with pytest.raises(ConfigError, match="profile: got 'm:that'"):
        steering_of_profile(tmp_path / "pilothouse.yaml", "m:that")
    with pytest.raises(ConfigError, match=r"m:no.*steers something"):
        steering_of_profile(tmp_path / "pilothouse.yaml", "m:no")
    with pytest.raises(ConfigError, match="already"):
        bake(model, tmp_path / "other", steering)
    with pytest.raises(ConfigError, match="kind: got 'magic'"):
        bake(model, tmp_path / "third", steering, kind="magic")  # type: ignore[arg-type]
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3", "mistral", "gpt2"])
def test_an_ablation_of_all_writers_is_a_checkpoint(models: Any, tmp_path: Path, name: str) -> None:
    model, place = models(name), vector(tmp_path, name, "resid_post")
    words = ("--op", "ablate", "--layer", "2", "--writers", "--as", "checkpoint")
    result = run(model, tmp_path / "baked", "--vector", str(place), *words)
    assert result.exit_code == 0, result.output
    done = program(place, op="ablate", layers=[2], sites="writers")
    assert len(done.layers) == 1 + 2 * NUM_LAYERS
    agrees(model, tmp_path / "baked", name, name, done)


def merged(model: Path, adapter: Path, out: Path) -> Path:
    """The model with an adapter in its weights: W + B A, and for a table (B A)^T; by hand."""
    shutil.copytree(model, out)
    weights = load_file(out / "model.safetensors")
    loras = load_file(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"]
    for name, down in loras.items():
        for mark, tail in ((".lora_A", ".weight"), (".lora_embedding_A", "")):
            if not name.endswith(mark + tail):
                continue
            module = name.removeprefix("base_model.model.").removesuffix(mark + tail)
            change = loras[name.replace("_A", "_B")] @ down
            weights[f"{module}.weight"] += change.T if "embedding" in mark else change
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    return out


@pytest.mark.parametrize("name", ["llama", "qwen3"])
@pytest.mark.parametrize("op", [("ablate",), ("ablate", "--scale", "0.6")])
def test_an_ablation_of_all_writers_is_an_adapter(
    models: Any, tmp_path: Path, name: str, op: tuple[str, ...]
) -> None:
    model, place = models(name), vector(tmp_path, name, "resid_post")
    words = ("--op", *op, "--layer", "2", "--writers")
    result = run(model, tmp_path / "lora", "--vector", str(place), *words)
    assert result.exit_code == 0, result.output
    assert "as        adapter of rank 1" in result.output
    scale = float(op[2]) if len(op) > 1 else 1.0
    done = program(place, op="ablate", layers=[2], sites="writers", scale=scale)
    whole = merged(model, tmp_path / "lora", tmp_path / "merged")
    agrees(model, whole, name, name, done)


@pytest.mark.parametrize(
    ("name", "site", "width"),
    [("qwen3", "attn_heads", 64), ("llama", "mlp_neurons", 128), ("qwen3", "mlp_out", D_MODEL)],
)
def test_a_projection_at_one_place_is_an_adapter(
    models: Any, tmp_path: Path, name: str, site: Site, width: int
) -> None:
    model, place = models(name), vector(tmp_path, name, site, width)
    result = run(model, tmp_path / "lora", "--vector", str(place), "--op", "reflect")
    assert result.exit_code == 0, result.output
    whole = merged(model, tmp_path / "lora", tmp_path / "merged")
    agrees(model, whole, name, name, program(place, op="reflect"))


def test_a_fixed_projection_is_a_matrix_and_a_bias(models: Any, tmp_path: Path) -> None:
    model, place = models("llama"), vector(tmp_path, "llama", "mlp_neurons", 128)
    words = ("--op", "set", "--value", "3")
    result = run(model, tmp_path / "baked", "--vector", str(place), *words)
    assert result.exit_code == 0, result.output
    agrees(model, tmp_path / "baked", "llama", "llama", program(place, op="set", value=3.0))


def test_a_profile_of_several_terms_is_baked_as_one(models: Any, tmp_path: Path) -> None:
    model = models("llama")
    vector(tmp_path, "llama", "mlp_out")
    vector(tmp_path, "llama", "resid_post", size=1.0)
    draw = np.random.default_rng(3)
    basis, _ = np.linalg.qr(draw.normal(size=(D_MODEL, 3)))
    space = build_transform(
        "space",
        form="subspace",
        model_id="llama",
        layers=(0, 1),
        created_by="a test",
        arrays={"basis": np.stack([basis.T, basis.T]).astype(np.float32)},
        site="attn_out",
        residual_norms_L=np.ones(2, np.float32),
    )
    save_transform(space, tmp_path / "space")
    text = """
version: 1
model_id: llama
vectors: {a: {path: vector-mlp_out}, b: {path: vector-resid_post}, c: {path: space}}
profiles:
  "x:y":
    steer:
      - {vector: a, op: ablate, "on": all}
      - {vector: b, scale: -1.5, "on": all}
      - {vector: c, "on": all, layers: [1]}
"""
    (tmp_path / "pilothouse.yaml").write_text(text)
    words = ("--config", str(tmp_path / "pilothouse.yaml"), "--profile", "x:y")
    result = run(model, tmp_path / "baked", *words)
    assert result.exit_code == 0, result.output
    loaded: dict[str, Any] = {
        "a": load_vector("a", tmp_path / "vector-mlp_out"),
        "b": load_vector("b", tmp_path / "vector-resid_post"),
        "c": space,
    }
    terms: list[dict[str, Any]] = [
        {"vector": "a", "op": "ablate"},
        {"vector": "b", "scale": -1.5},
        {"vector": "c", "layers": [1]},
    ]
    done = compile_program(
        [SteerTerm.model_validate(each | {"on": "all"}) for each in terms],
        Sources(loaded, num_layers=NUM_LAYERS),
    )
    assert done is not None
    agrees(model, tmp_path / "baked", "llama", "llama", done)


def test_tied_tables_part_and_the_output_stays(models: Any, tmp_path: Path) -> None:
    model = models("qwen3")
    config = json.loads((model / "config.json").read_text())
    tied = tmp_path / "qwen3"
    shutil.copytree(model, tied)
    (tied / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    weights = load_file(tied / "model.safetensors")
    weights.pop("lm_head.weight")
    save_file(weights, tied / "model.safetensors", {"format": "pt"})
    place = vector(tmp_path, "qwen3", "resid_post")
    words = ("--op", "ablate", "--layer", "2", "--writers", "--as", "checkpoint")
    assert run(tied, tmp_path / "baked", "--vector", str(place), *words).exit_code == 0
    done = program(place, op="ablate", layers=[2], sites="writers")
    agrees(tied, tmp_path / "baked", "qwen3", "qwen3", done)


def test_bfloat16_weights_stay_so_and_are_rounded_once(tmp_path: Path) -> None:
    model = make_architecture(tmp_path / "llama", "llama", dtype=torch.bfloat16)
    place = vector(tmp_path, "llama", "mlp_out")
    words = ("--op", "ablate", "--as", "checkpoint")
    assert run(model, tmp_path / "baked", "--vector", str(place), *words).exit_code == 0
    old = load_file(model / "model.safetensors")
    new = load_file(tmp_path / "baked" / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    unit_D = torch.from_numpy(load_vector("it", place).direction_D(1)).double()
    unit_D = unit_D / unit_D.norm()
    whole = old[name].double()
    want = (whole - torch.outer(unit_D, unit_D @ whole)).to(torch.bfloat16)
    assert torch.equal(new[name], want)
    assert {key for key in old if not torch.equal(old[key], new[key])} == {
        f"model.layers.{layer}.mlp.down_proj.weight" for layer in (1, 2)
    }


def test_gpt2s_tables_of_words_and_of_positions_lose_the_direction(
    models: Any, tmp_path: Path
) -> None:
    place = vector(tmp_path, "gpt2", "resid_post")
    words = ("--op", "ablate", "--layer", "2", "--writers")
    result = run(models("gpt2"), tmp_path / "baked", "--vector", str(place), *words)
    assert result.exit_code == 0, result.output
    loaded: Vector = load_vector("it", place)
    unit_D = torch.from_numpy(loaded.direction_D(2))
    unit_D = unit_D / unit_D.norm()
    baked = load_file(tmp_path / "baked" / "model.safetensors")
    for name in ("wte.weight", "wpe.weight", "h.3.attn.c_proj.weight", "h.0.mlp.c_proj.weight"):
        assert (baked[f"transformer.{name}"] @ unit_D).abs().max() < 1e-5
    for name in ("h.3.attn.c_proj.bias", "h.0.mlp.c_proj.bias"):
        assert (baked[f"transformer.{name}"] @ unit_D).abs() < 1e-5


def test_shards_that_are_not_touched_are_copied(models: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(models("llama"), dtype=torch.float32)
    whole.save_pretrained(tmp_path / "llama", max_shard_size="200KB")
    shards = sorted((tmp_path / "llama").glob("model-*.safetensors"))
    assert len(shards) > 2
    place = vector(tmp_path, "llama", "mlp_out")
    result = run(tmp_path / "llama", tmp_path / "baked", "--vector", str(place), "--scale", "1")
    assert result.exit_code == 0, result.output
    same = [
        each
        for each in shards
        if (tmp_path / "baked" / each.name).read_bytes() == each.read_bytes()
    ]
    assert same
    done = program(place, scale=1.0)
    agrees(tmp_path / "llama", tmp_path / "baked", "llama", "llama", done)


@pytest.mark.full
@pytest.mark.server
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "words",
    [("--scale", "1.5"), ("--op", "ablate", "--layer", "2", "--writers")],
    ids=["checkpoint", "adapter"],
)
def test_the_check_runs_both_and_holds(tmp_path: Path, words: tuple[str, ...]) -> None:
    model = make_architecture(tmp_path / "llama", "llama")
    word_tokenizer().save_pretrained(model)
    place = vector(tmp_path, "llama", "resid_post", size=0.5)
    (tmp_path / "prompts.txt").write_text("the boats\nleave with the tide\n")
    given = ("--vector", str(place), "--check", str(tmp_path / "prompts.txt"), "--dtype", "float32")
    result = run(model, tmp_path / "baked", *given, *words)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "baked" / "pilothouse_bake.json").read_text())
    assert record["parity"]["share"] < TOLERANCE
    assert record["parity"]["moved"] > MOVED


def word_tokenizer() -> Any:
    """A word for each id; the tiny models know 256."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<start>", "<end>", "<unk>", "the", "boats", "leave", "with", "tide"]
    raw = Tokenizer(models.WordLevel({each: i for i, each in enumerate(names)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>")


@pytest.mark.parametrize(("share", "passes"), [(1e-5, True), (1e-3, False), (float("nan"), False)])
def test_a_check_that_fails_writes_nothing(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, passes: bool
) -> None:
    def parity(*_: Any) -> Parity:
        return Parity(difference=1.0, share=share, moved=5.0, num_tokens=7)

    monkeypatch.setattr(bake_program, "check_parity", parity)
    place = vector(tmp_path, "llama", "mlp_out")
    (tmp_path / "p.txt").write_text("the boats")
    words = ("--scale", "1", "--check", str(tmp_path / "p.txt"))
    result = run(models("llama"), tmp_path / "baked", "--vector", str(place), *words)
    assert (result.exit_code, (tmp_path / "baked").exists()) == (
        (0, True) if passes else (1, False)
    )
    assert ("nothing was written" in result.output) != passes
