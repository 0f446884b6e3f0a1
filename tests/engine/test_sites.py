"""Taps at every site: reads, client edits and policies' edits equal transformers with hooks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pilothouse.artifacts.catalog import SERVED_SITES, Catalog
from pilothouse.artifacts.vector import Vector, build_vector
from pilothouse.errors import EngineError
from pilothouse.types import PROJECTION_SITES, Site
from tests.support.engines.harness import engine, make_plan, random_rows
from tests.support.engines.own_process import in_own_process
from tests.support.models.tiny_architectures import D_MODEL, make_architecture
from tests.support.parity.sites import ALL_SITES, run_check

PROGRAM = "tests.support.parity.sites"
TOLERANCE = 1e-4

pytestmark = pytest.mark.engine


def test_every_served_site_is_checked() -> None:
    assert set(ALL_SITES) == set(SERVED_SITES)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_every_operator_at_every_site_equals_transformers(name: str, tmp_path: Path) -> None:
    assert run_check(name, tmp_path)["error"] <= TOLERANCE


@pytest.mark.timeout(600)
def test_two_workers_edit_and_read_their_parts_of_every_site(tmp_path: Path) -> None:
    in_own_process(tmp_path, "llama", "--workers", "2", program=PROGRAM)


@pytest.mark.full
@pytest.mark.parametrize("name", ["gemma3", "olmo2", "mixtral"])
def test_every_operator_at_every_site_of_more_architectures(name: str, tmp_path: Path) -> None:
    assert run_check(name, tmp_path)["error"] <= TOLERANCE


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "flags",
    [
        ("llama", "--compiled"),
        ("llama", "--v2"),
        ("llama", "--v2", "--compiled"),
        ("gpt2", "--workers", "2"),
        ("llama", "--workers", "2", "--compiled"),
        ("mixtral", "--workers", "2"),
    ],
    ids=" ".join,
)
def test_every_operator_at_every_site_whatever_runs_it(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    in_own_process(tmp_path, *flags, program=PROGRAM)


def vector(site: Site, width: int) -> Vector:
    return build_vector(
        "v",
        model_id="tiny",
        layers=(1,),
        directions_LD=random_rows(1, 1, width),
        residual_norms_L=np.array([1.0], np.float32),
        created_by="tests",
        site=site,
        d_model=D_MODEL if site in PROJECTION_SITES else None,
    )


def test_a_site_that_the_model_lacks_stops_the_start(tmp_path: Path) -> None:
    make_architecture(tmp_path, "falcon")
    plan = make_plan(Catalog(vectors={"v": vector("resid_mid", D_MODEL)}))
    wanted = r"resid_mid of layer 1 of Falcon.*This layer has"
    with pytest.raises(EngineError, match=wanted), engine(tmp_path, plan):
        pass


def test_a_vector_of_another_width_than_the_site_stops_the_start(tmp_path: Path) -> None:
    make_architecture(tmp_path, "llama")
    plan = make_plan(Catalog(vectors={"v": vector("mlp_neurons", 96)}))
    wanted = "mlp_neurons of layer 1: what is loaded there has width 96, tiny has 128"
    with pytest.raises(EngineError, match=wanted), engine(tmp_path, plan):
        pass
