"""An adapter that `vector bake` writes does in peft what steering does."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.bake.test_bake import MOVED, TOKENS, TOLERANCE, hooked, program, run, vector
from tests.oracles.test_vectors import log_softmax
from tests.support.models.tiny_architectures import make_architecture

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
APPLIER = Path(__file__).with_name("apply_adapter.py")


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_peft_loads_an_ablation_of_all_writers_and_merges_it(
    name: str, oracle_python: Path, tmp_path: Path
) -> None:
    model = make_architecture(tmp_path / name, name)
    place = vector(tmp_path, name, "resid_post")
    words = ("--op", "ablate", "--layer", "2", "--writers")
    result = run(model, tmp_path / "lora", "--vector", str(place), *words)
    assert "as        adapter of rank 1" in result.output, result.output
    plain_TV, wanted_TV = hooked(
        model, name, program(place, op="ablate", layers=[2], sites="writers")
    )
    assert np.abs(wanted_TV - plain_TV).max() > MOVED
    out = tmp_path / "logits.npz"
    done = subprocess.run(
        [oracle_python, APPLIER, model, tmp_path / "lora", json.dumps(TOKENS), out],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(out) as logits:
        assert np.abs(log_softmax(logits["plain"]) - plain_TV).max() < TOLERANCE
        for kind in ("adapted", "merged"):
            assert np.abs(log_softmax(logits[kind]) - wanted_TV).max() < TOLERANCE, kind
