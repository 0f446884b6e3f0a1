"""A feature as a probe: its score tells the feature's code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pilothouse.artifacts.probe import Probe, load_probe
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.cli import sae as sae_verb
from pilothouse.edits.feature_probe import SHARPNESS, feature_probe
from pilothouse.edits.sae_codes import encode
from pilothouse.errors import RequestError
from tests.support.artifacts import sae_files as files

RUN = CliRunner()
HIDDEN_TD = files.hidden(64)
LARGEST = 30.0


def loaded(folder: Path, form: str, *, maxima: bool = True) -> tuple[Path, Sae]:
    place = files.saelens(folder / form, files.book(form))
    sae = load_sae("lens", place, "saelens")
    if maxima:
        files.save(place / "features.safetensors", {"max_act": np.full(sae.num_features, LARGEST)})
    files.write_json(place / "labels.json", {"2": "ships"})
    return place, load_sae("lens", place, "saelens")


def scores_T(probe: Probe) -> np.ndarray:
    logits_T = HIDDEN_TD @ probe.weights_LD[0].astype(np.float64) + probe.bias
    return 1.0 / (1.0 + np.exp(-logits_T))


@pytest.mark.parametrize("form", ["relu", "jumprelu", "gated"])
def test_a_score_is_a_half_where_the_feature_turns_on_and_rises_with_its_code(
    form: str, tmp_path: Path
) -> None:
    _, sae = loaded(tmp_path, form)
    codes_TM = encode(sae, HIDDEN_TD)
    for feature in range(sae.num_features):
        found_T = scores_T(feature_probe("p", sae, feature, "a test"))
        codes_T = codes_TM[:, feature]
        on_T = codes_T > 0
        clear_T = np.abs(found_T - 0.5) > 1e-6
        assert ((found_T > 0.5) == on_T)[clear_T].all()
        order = np.argsort(codes_T[on_T])
        assert (np.diff(found_T[on_T][order]) >= -1e-6).all()
    assert codes_TM.any()


def test_the_largest_code_scores_nearly_one(tmp_path: Path) -> None:
    _, sae = loaded(tmp_path, "relu")
    probe = feature_probe("p", sae, 2, "a test")
    code = encode(sae, HIDDEN_TD)[:, 2].max()
    logit = np.log(scores_T(probe).max() / (1 - scores_T(probe).max()))
    assert logit == pytest.approx(SHARPNESS * code / LARGEST, rel=1e-4)
    _, plain = loaded(tmp_path / "plain", "relu", maxima=False)
    logit = HIDDEN_TD @ feature_probe("p", plain, 2, "a test").weights_LD[0] / SHARPNESS
    assert np.isfinite(logit).all()


def test_the_verb_writes_a_probe_that_loads(tmp_path: Path) -> None:
    place, sae = loaded(tmp_path, "jumprelu")
    out = tmp_path / "ships"
    words = ["probe", str(place), "--feature", "ships", "--out", str(out)]
    result = RUN.invoke(sae_verb.app, words)
    assert result.exit_code == 0, result.output
    assert "feature 2 (ships)" in result.output
    probe = load_probe("ships", out)
    want = feature_probe("ships", sae, 2, "a test")
    np.testing.assert_array_equal(probe.weights_LD, want.weights_LD)
    assert set(probe.readouts) == {"prompt_max", "output_max", "answer_max"}
    again = RUN.invoke(sae_verb.app, ["probe", str(place), "--feature", "1", "--out", str(out)])
    assert again.exit_code == 2 and "is there already" in again.output


@pytest.mark.parametrize(
    ("feature", "told"), [("shops", "near are ['ships']"), ("9999", "want 0 to")]
)
def test_a_feature_that_there_is_not_writes_nothing(
    feature: str, told: str, tmp_path: Path
) -> None:
    place, _ = loaded(tmp_path, "relu")
    out = tmp_path / "out"
    words = ["probe", str(place), "--feature", feature, "--out", str(out)]
    result = RUN.invoke(sae_verb.app, words)
    assert result.exit_code == 1
    assert told in result.output
    assert not out.exists()


@pytest.mark.parametrize("form", ["topk", "abstopk"])
def test_features_that_are_chosen_by_all_others_are_refused(form: str, tmp_path: Path) -> None:
    _, sae = loaded(tmp_path, form)
    with pytest.raises(RequestError, match="hangs on all others"):
        feature_probe("p", sae, 1, "a test")
