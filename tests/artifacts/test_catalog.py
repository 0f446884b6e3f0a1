"""The catalog: what a configuration names, all of it or nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilothouse.artifacts.catalog import load_catalog, signals_of
from pilothouse.artifacts.manifest import ReadoutAggregate, Threshold
from pilothouse.artifacts.probe import save_probe
from pilothouse.artifacts.vector import save_vector
from pilothouse.config import PilothouseConfig, SaeRef, parse_config
from pilothouse.errors import ArtefactError, ConfigError
from pilothouse.types import Aggregate, Tap
from tests.reference.sae import Book
from tests.support.artifacts import sae_files as files
from tests.support.artifacts.folders import edit_manifest, probe, readout, vector
from tests.support.artifacts.sae_files import FEATURES, WIDTH, book


def config(folder: Path, **fields: Any) -> PilothouseConfig:
    return parse_config({"version": 1} | fields, folder=folder, origin="pilothouse.yaml")


@pytest.fixture
def both(tmp_path: Path) -> PilothouseConfig:
    save_vector(vector(), tmp_path / "v")
    save_probe(probe(), tmp_path / "p")
    return config(tmp_path, vectors={"happy": {"path": "v"}}, probes={"abuse": {"path": "p"}})


def test_artefacts_go_by_the_operators_names(both: PilothouseConfig) -> None:
    catalog = load_catalog(both)
    assert catalog.vectors["happy"].name == "happy"
    assert catalog.probes["abuse"].name == "abuse"
    assert [each.key for each in signals_of(catalog.probes["abuse"])] == ["abuse/prompt_max"]


def test_an_empty_configuration_gives_an_empty_catalog(tmp_path: Path) -> None:
    catalog = load_catalog(config(tmp_path))
    assert not catalog.vectors
    assert not catalog.probes


def test_every_bad_artefact_is_told_at_once(both: PilothouseConfig, tmp_path: Path) -> None:
    (tmp_path / "v" / "manifest.json").unlink()
    (tmp_path / "p" / "weights.safetensors").unlink()
    with pytest.raises(ArtefactError) as caught:
        load_catalog(both)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert str(tmp_path / "v" / "manifest.json") in lines[0]
    assert str(tmp_path / "p" / "weights.safetensors") in lines[1]


def test_artefacts_of_two_models_are_refused(both: PilothouseConfig, tmp_path: Path) -> None:
    edit_manifest(tmp_path / "p", lambda raw: raw.update(model_id="other"))
    with pytest.raises(ArtefactError, match="model_id: got 'other', want 'demo' as 'happy' has"):
        load_catalog(both)


def test_a_site_that_is_not_served_is_refused(both: PilothouseConfig, tmp_path: Path) -> None:
    edit_manifest(tmp_path / "p", lambda raw: raw.update(site="logits"))
    with pytest.raises(ArtefactError, match=r"site: got .logits., want one of .*resid_post"):
        load_catalog(both)


def test_a_site_with_a_width_of_its_own_needs_it(both: PilothouseConfig, tmp_path: Path) -> None:
    edit_manifest(tmp_path / "p", lambda raw: raw.update(site="mlp_neurons"))
    with pytest.raises(ArtefactError, match=r"width: got None at site 'mlp_neurons', want"):
        load_catalog(both)


def threshold(target: float, value: float, bucket: int | None = None) -> Threshold:
    return Threshold(
        target_fpr=target,
        value=value,
        n=5000,
        exceedances=0,
        fpr_upper=target / 2,
        length_bucket=bucket,
    )


def with_sae(folder: Path, both: PilothouseConfig, **entry: Any) -> PilothouseConfig:
    """The configuration with an SAE of the same model and width, at another layer."""
    made = wide_book()
    files.saelens(
        folder / "s",
        made,
        d_in=vector().width,
        d_sae=FEATURES,
        metadata={"model_name": "demo", "hook_name": "blocks.2.hook_resid_post"},
    )
    return both.model_copy(
        update={"saes": {"topics": SaeRef.model_validate({"path": folder / "s"} | entry)}}
    )


def wide_book() -> Book:
    width = vector().width
    draw = np.random.default_rng(0)
    return Book(
        W_enc=draw.normal(size=(width, FEATURES)),
        W_dec=draw.normal(size=(FEATURES, width)),
        b_dec=np.zeros(width),
        b_enc=np.zeros(FEATURES),
    )


def test_an_sae_goes_by_the_operators_name(both: PilothouseConfig, tmp_path: Path) -> None:
    catalog = load_catalog(with_sae(tmp_path, both, average_norm=4.0))
    sae = catalog.saes["topics"]
    assert (sae.name, sae.tap, sae.average_norm) == ("topics", Tap(2, "resid_post"), 4.0)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"model": "other"}, r"s: model: got 'other', want 'demo' as others have.*model: demo"),
        ({"layer": 3}, r"layer: got 2, want 3 as pilothouse.yaml says"),
        ({"format": "sparsify"}, r"sae.safetensors|hook|folder's name"),
        ({"format": "lens"}, r"saes.topics: format: got 'lens', want one of"),
        ({"path": Path("/nowhere")}, r"/nowhere: folder: got nothing"),
    ],
)
def test_an_sae_that_does_not_fit_is_told_with_the_remedy(
    both: PilothouseConfig, tmp_path: Path, entry: dict[str, Any], said: str
) -> None:
    with pytest.raises(ArtefactError, match=said):
        load_catalog(with_sae(tmp_path, both, **entry))


def test_an_sae_of_another_width_is_refused(both: PilothouseConfig, tmp_path: Path) -> None:
    config = with_sae(tmp_path, both)
    files.saelens(
        tmp_path / "s",
        book(),
        metadata={
            "model_name": "demo",
            "hook_name": "blocks.2.hook_resid_post",
        },
    )
    assert vector().width != WIDTH
    with pytest.raises(ArtefactError, match=rf"s: width: got {WIDTH}, want {vector().width}"):
        load_catalog(config)


def test_a_name_is_of_one_thing_and_profiles_name_what_is_there(tmp_path: Path) -> None:
    both = {"vectors": {"x": {"path": "v"}}, "saes": {"x": {"path": "s"}}}
    with pytest.raises(ConfigError, match=r"'x' is under vectors and under saes.*rename one"):
        config(tmp_path, **both)
    edit = {"sae": "x", "feature": 1, "value": 2.0}
    with pytest.raises(ConfigError, match=r"steers with 'x', which is not under saes"):
        config(tmp_path, vectors=both["vectors"], profiles={"demo:x": {"steer": [edit]}})
    with pytest.raises(ConfigError, match=r"average_norm"):
        config(tmp_path, saes={"x": {"path": "s", "average_norm": 0.0}})


def test_signals_carry_calibration_and_thresholds() -> None:
    made = probe(
        readouts={
            "prompt_max": readout(
                thresholds=(threshold(0.01, 0.4), threshold(0.001, 0.9), threshold(0.01, 0.7, 512))
            ),
            "smooth": readout(
                scope="answer",
                aggregate=ReadoutAggregate(kind="ema_last", half_life_tokens=4),
                thresholds=(threshold(0.01, 0.7, 512), threshold(0.01, 0.8, 2048)),
            ),
        }
    )
    first, second = signals_of(made)
    assert (first.slope, first.offset, first.calibrated) == (1.5, -0.5, True)
    assert first.aggregate == Aggregate("max")
    assert first.thresholds == ((0.001, 0.9), (0.01, 0.4))
    assert (second.scope, second.aggregate) == ("answer", Aggregate("ema_last", 4.0))
    assert second.thresholds == ((0.01, 0.8),)


def test_nothing_heavy_is_loaded_beside_the_engine() -> None:
    code = (
        "import sys, pilothouse.artifacts.catalog, pilothouse.edits.program;"
        "import pilothouse.probes.aggregators;"
        "import pilothouse.probes.calibration;"
        "heavy = {'torch', 'vllm', 'scipy', 'sklearn', 'fastapi', 'transformers'};"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
