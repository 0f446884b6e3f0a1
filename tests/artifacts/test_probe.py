"""Probes survive the disk, floats and all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pilothouse.artifacts.manifest import ReadoutAggregate, Threshold
from pilothouse.artifacts.probe import load_probe, save_probe
from pilothouse.types import Aggregate
from tests.support.artifacts.folders import probe, readout


def test_a_probe_is_the_same_after_the_disk(tmp_path: Path) -> None:
    awkward = float(np.nextafter(0.1, 1.0))
    threshold = Threshold(target_fpr=0.01, value=awkward, n=300, exceedances=0, fpr_upper=0.00994)
    made = probe(
        bias=awkward,
        readouts={
            "prompt_max": readout(thresholds=(threshold,), offset=-awkward),
            "smooth": readout(aggregate=ReadoutAggregate(kind="ema_max", half_life_tokens=4)),
        },
    )
    save_probe(made, tmp_path)
    loaded = load_probe("misuse", tmp_path)
    assert np.array_equal(loaded.weights_LD, made.weights_LD)
    assert loaded.bias == awkward
    assert loaded.readouts == made.readouts
    assert loaded.readouts["prompt_max"].thresholds[0].value == awkward
    assert loaded.digest == made.digest


def test_the_readouts_are_part_of_the_digest() -> None:
    assert probe().digest != probe(readouts={"prompt_max": readout(slope=1.4)}).digest


def test_a_loaded_probe_cannot_be_changed(tmp_path: Path) -> None:
    save_probe(probe(), tmp_path)
    loaded = load_probe("misuse", tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        loaded.weights_LD[0, 0] = 1.0
    with pytest.raises(TypeError):
        loaded.readouts["other"] = readout()  # type: ignore[index]


def test_a_manifest_names_the_parameters_that_are_given_and_an_older_one_keeps_its_digest() -> None:
    smooth = ReadoutAggregate(kind="ema_max", half_life_tokens=4)
    assert smooth.model_dump() == {"kind": "ema_max", "half_life_tokens": 4}
    alarm = {"kind": "k_of_n", "k_tokens": 3, "window_tokens": 16, "on_logit": 1, "off_logit": 0}
    dumped = ReadoutAggregate.model_validate(alarm).model_dump()
    assert dumped == alarm | {"half_life_tokens": None}
    assert ReadoutAggregate.model_validate(dumped).spec == Aggregate(**alarm)
