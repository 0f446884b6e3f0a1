"""Facts about published SAEs that stand outside their files are taken up, or asked for."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilothouse.artifacts.saes.cache import open_sae
from pilothouse.artifacts.saes.hints import SaeHints
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.artifacts.saes.releases import RELEASES
from pilothouse.config import SaeRef
from pilothouse.edits.sae_codes import encode
from pilothouse.errors import ArtefactError
from tests.support.artifacts import sae_files as files
from tests.support.artifacts.sae_files import WIDTH, book, hidden

PUBLISHED = {
    "hook_point": "blocks.3.hook_resid_pre",
    "hook_point_layer": 3,
    "d_in": WIDTH,
    "d_sae": 40,
    "dtype": "torch.float32",
    "model_name": "gpt2-small",
    "use_cached_activations": False,
    "prepend_bos": True,
    "context_size": 128,
    "l1_coefficient": 8e-05,
    "lp_norm": 1,
    "noise_scale": 0.0,
}
"""As gpt2-small-res-jb has it: nothing says that the model was centred."""


def old(folder: Path, **changes: Any) -> Path:
    files.saelens_3(folder, book())
    files.write_json(folder / "cfg.json", PUBLISHED | changes)
    return folder


def check(folder: Path, told: SaeHints, *, is_centred: bool) -> tuple[str, ...]:
    """Codes of a stream with a mean are those of one without, or not; the notes."""
    sae = load_sae("s", folder, "saelens", told)
    shifted = encode(sae, hidden() + 3.0)
    assert np.allclose(shifted, encode(sae, hidden()), atol=1e-9) == is_centred
    assert sae.is_centred == is_centred
    return sae.notes


def test_gpt2_small_res_jb_is_centred_under_any_name(tmp_path: Path) -> None:
    [note] = check(old(tmp_path / "copy"), SaeHints(), is_centred=True)
    assert "SAELens' table for gpt2-small-res-jb" in note


def test_the_operator_can_say_that_it_is_another(tmp_path: Path) -> None:
    assert check(old(tmp_path / "copy"), SaeHints(is_centred=False), is_centred=False) == ()


@pytest.mark.parametrize("name", ["owner", "clone"])
def test_a_release_is_known_by_its_repository(tmp_path: Path, name: str) -> None:
    repo = "jbloom/GPT2-Small-Feature-Splitting-Experiment-Layer-8"
    place = "models--" + repo.replace("/", "--") if name == "owner" else repo
    folder = old(tmp_path / place / "blocks.8.hook_resid_pre_768", l1_coefficient=1e-4)
    [note] = check(folder, SaeHints(), is_centred=True)
    assert "feature-splitting" in note
    with pytest.raises(ArtefactError, match="center_writing_weights: got True, want False as"):
        load_sae("s", folder, "saelens", SaeHints(is_centred=False))


@pytest.mark.parametrize(
    "changes", [{"l1_coefficient": 1e-4}, {"model_name": "pythia-70m"}, {"model_name": "custom"}]
)
def test_an_old_file_that_does_not_say_it_is_told_with_what_settles_it(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = old(tmp_path, **changes)
    [note] = check(folder, SaeHints(), is_centred=False)
    for word in ("center_writing_weights", "is_centred: true", "--centred"):
        assert word in note
    assert check(folder, SaeHints(is_centred=False), is_centred=False) == ()
    assert check(folder, SaeHints(is_centred=True), is_centred=True) == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"model_name": "gemma-2b"},
        {"model_name": "meta-llama/Llama-3-8B"},
        {"normalize_activations": "layer_norm"},
        {"sae_lens_version": "5.5.0"},
        {"model_from_pretrained_kwargs": {"center_writing_weights": False}},
        {"hook_point": "blocks.3.attn.hook_z"},
        {"hook_point": "blocks.3.mlp.hook_post"},
    ],
)
def test_nothing_is_asked_where_it_is_known_or_does_not_matter(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = old(tmp_path, l1_coefficient=1e-4, **changes)
    assert load_sae("s", folder, "saelens").notes == ()


def test_newer_files_are_as_they_say(tmp_path: Path) -> None:
    assert load_sae("s", files.saelens(tmp_path, book()), "saelens").notes == ()


def test_a_file_and_the_operator_agree(tmp_path: Path) -> None:
    folder = old(tmp_path, model_from_pretrained_kwargs={"center_writing_weights": True})
    assert check(folder, SaeHints(is_centred=True), is_centred=True) == ()
    with pytest.raises(ArtefactError, match="got True, want False as pilothouse"):
        load_sae("s", folder, "saelens", SaeHints(is_centred=False))


def test_layouts_without_a_word_for_it_take_the_operators(tmp_path: Path) -> None:
    folder = files.sparsify(tmp_path, book("topk"))
    plain = load_sae("s", folder, "sparsify", SaeHints(model_id="m"))
    centred = load_sae("s", folder, "sparsify", SaeHints(model_id="m", is_centred=True))
    assert (plain.is_centred, centred.is_centred) == (False, True)
    assert plain.digest != centred.digest
    with pytest.raises(ArtefactError, match=r"is_centred: got True, want nothing at attn_heads"):
        where = files.saelens_3(tmp_path / "z", book(), hook_point="blocks.3.attn.hook_z")
        load_sae("s", where, "saelens", SaeHints(is_centred=True))


def test_a_normalisation_that_only_the_table_says_is_applied(tmp_path: Path) -> None:
    folder = tmp_path / "JoshEngels" / "Mistral-7B-Residual-Stream-SAEs" / "mistral_7b_layer_8"
    old(folder, model_name="mistral-7b", hook_point="blocks.8.hook_resid_pre")
    sae = load_sae("s", folder, "saelens")
    assert sae.normalisation == "constant_norm"
    assert "constant_norm_rescale" in sae.notes[0]


def test_a_factor_that_only_the_table_says_is_applied(tmp_path: Path) -> None:
    folder = tmp_path / "Gemma-2b-Residual-Stream-SAEs" / "gemma_2b_blocks.12.hook_resid_post_16384"
    old(folder, model_name="gemma-2b", normalize_activations="expected_average_only_in")
    sae = load_sae("s", folder, "saelens")
    assert sae.input_scale == pytest.approx(0.21381938399317255)
    assert "gemma-2b-res-jb" in sae.notes[0]
    told = load_sae("s", folder, "saelens", SaeHints(average_norm=2.0))
    assert (told.input_scale, told.notes) == (pytest.approx(np.sqrt(WIDTH) / 2.0), ())


def test_the_lengths_of_the_r1_series_are_in_the_table(tmp_path: Path) -> None:
    series = tmp_path / "Llama-Scope-R1-Distill" / "400M-Slimpajama-400M-OpenR1-Math-220k"
    folder = files.llama_scope_r1(series / "L15R", book("jumprelu"))
    sae = load_sae("s", folder, "llama-scope-r1")
    assert sae.input_scale == pytest.approx(5.318041374)
    [note] = sae.notes
    assert "llama_scope_r1_distill" in note
    scales = next(each for each in RELEASES if "R1" in each.repo).input_scales
    assert len(scales) == 96


def test_an_imported_sae_keeps_what_was_found(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from pilothouse.cli.sae import app

    done = CliRunner().invoke(
        app, ["import", str(old(tmp_path / "old")), "--out", str(tmp_path / "ours")]
    )
    assert done.exit_code == 0, done.output
    assert "note      center_writing_weights is true" in done.output
    ours = load_sae("s", tmp_path / "ours", None)
    assert ours.is_centred
    with pytest.raises(ArtefactError, match="is_centred: got True, want False"):
        load_sae("s", tmp_path / "ours", None, SaeHints(is_centred=False))


def test_a_server_logs_what_is_left_open_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = old(tmp_path, l1_coefficient=1e-4)
    with caplog.at_level(logging.WARNING):
        kept = [open_sae("topics", SaeRef(path=folder)) for _ in range(2)]
    assert len(kept) == 2
    [said] = [each.getMessage() for each in caplog.records]
    assert said.startswith("saes.topics: ")
    assert "say is_centred: true or false in pilothouse.yaml" in said  # whole, with the remedy


def test_show_prints_what_is_left_open(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from pilothouse.cli.sae import app

    folder = old(tmp_path, l1_coefficient=1e-4)
    done = CliRunner().invoke(app, ["show", str(folder)])
    assert (done.exit_code, "note      the file does not say" in done.output) == (0, True)
    told = CliRunner().invoke(app, ["show", str(folder), "--centred", "--json"])
    about = json.loads(told.output)
    assert (about["is_centred"], about["notes"]) == (True, [])
