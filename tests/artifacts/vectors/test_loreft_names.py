"""Names that pyvene has given to files of interventions over its versions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.artifacts.import_command import imported, run_import
from tests.support.artifacts.vector_files import D, loreft

PICKLED = "--allow-pickle-weights"
WORDS = (PICKLED, "--d-model", str(D))
NAMES = [
    ("intkey_layer.{n}.repr.block_output.unit.pos.nunit.1#0.bin", "resid_post"),
    ("intkey_layer.{n}.comp.block_output.unit.pos.nunit.1#0.bin", "resid_post"),
    ("intkey_layer_{n}_comp_block_output_unit_pos_nunit_1#0.bin", "resid_post"),
    ("intkey_layer_{n}_comp_block_input_unit_pos_nunit_8#0.bin", "resid_pre"),
    ("intkey_layer.{n}.repr.attention_value_output.unit.pos.nunit.1#0.bin", "attn_heads"),
    ("intkey_comp.model.layers[{n}].output.unit.pos.nunit.1#0.bin", "resid_post"),
    ("intkey_comp_model_layers[{n}]_output_unit_pos_nunit_1#0.bin", "resid_post"),
    ("intkey_comp_model_layers[{n}]_input_unit_pos_nunit_1#0.bin", "resid_pre"),
    ("intkey_comp.base_model.model.model.layers[{n}].output.unit.pos.nunit.1#0.bin", "resid_post"),
    ("intkey_comp_base_model_model_model_layers[{n}]_output_unit_pos_nunit_1#0.bin", "resid_post"),
    ("intkey_comp.model.layers[{n}].self_attn.o_proj.input.unit.pos.nunit.1#0.bin", "attn_heads"),
    ("intkey_comp_transformer_h[{n}]_mlp_output_unit_pos_nunit_1#0.bin", "mlp_out"),
    ("intkey_comp.gpt_neox.layers[{n}].output.unit.pos.nunit.1#0.bin", "resid_post"),
    ("intkey_layer.0.repr.model.layers[{n}].output.unit.pos.nunit.1#0.bin", "resid_post"),
    ("intkey_layer.None.repr.model.layers[{n}].output.unit.pos.nunit.1#0.bin", "resid_post"),
    ("intkey_layer.{n}.comp.block_output.bin", "resid_post"),
]


def write(folder: Path, name: str, layers: tuple[int, ...] = (0, 2)) -> Path:
    folder.mkdir(parents=True)
    for layer in layers:
        torch.save(loreft(layer), folder / name.format(n=layer))
    return folder


@pytest.mark.parametrize(("name", "site"), NAMES)
def test_each_spelling_says_layer_and_site(tmp_path: Path, name: str, site: str) -> None:
    source = imported(write(tmp_path / "reft", name), "loreft", *WORDS, "--norms", "4,5")
    assert (source.site, source.layers) == (site, (0, 2))


@pytest.mark.parametrize(("name", "site"), NAMES[:7])
def test_a_file_by_itself_says_it_too(tmp_path: Path, name: str, site: str) -> None:
    folder = write(tmp_path / "reft", name, (2,))
    source = imported(folder / name.format(n=2), "loreft", *WORDS, "--norms", "4")
    assert (source.site, source.layers) == (site, (2,))


def test_the_folder_that_a_trainer_makes_is_looked_into(tmp_path: Path) -> None:
    write(tmp_path / "run" / "intervenable_model", NAMES[2][0])
    source = imported(tmp_path / "run", "loreft", PICKLED, "--norms", "4,5")
    assert source.layers == (0, 2)


def test_of_several_checkpoints_one_is_asked_for(tmp_path: Path) -> None:
    for step in (1, 2):
        write(tmp_path / "run" / f"checkpoint-{step}" / "intervenable_model", NAMES[2][0])
    done = run_import(tmp_path / "run", "loreft", PICKLED, "--norms", "4,5")
    assert done.exit_code == 1
    assert "name one of ['checkpoint-1/intervenable_model'" in done.output


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("intkey_layer.{n}.comp.head_value_output.unit.h.pos.nunit.1#0.bin", "single head"),
        ("intkey_layer.{n}.comp.query_output.unit.pos.nunit.1#0.bin", "component 'query_output'"),
        ("intkey_comp.model.layers[{n}].mlp.act_fn.output.unit.pos.nunit.1#0.bin", "component"),
        ("intkey_comp.vision_model.layers[{n}].output.unit.pos.nunit.1#0.bin", "component 'v"),
        ("intkey_layer.3.repr.model.layers[{n}].output.unit.pos.nunit.1#0.bin", "layer 3 and"),
        ("intkey_comp.block_output.unit.pos.nunit.{n}#0.bin", "component 'block_output'"),
        ("intkey-{n}.bin", "or the path of a module"),
    ],
)
def test_names_that_say_no_site_are_refused(tmp_path: Path, name: str, said: str) -> None:
    done = run_import(write(tmp_path / "reft", name), "loreft", PICKLED, "--norms", "4,5")
    assert done.exit_code == 1
    assert said in done.output
    assert "--site" in done.output or "a single head" in done.output


def test_two_interventions_at_one_place_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "reft", NAMES[2][0], (2,))
    torch.save(loreft(2), folder / NAMES[2][0].format(n=2).replace("#0", "#1"))
    done = run_import(folder, "loreft", PICKLED, "--norms", "4")
    assert "a second intervention at layer 2" in done.output
