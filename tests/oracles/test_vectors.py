"""Files that repeng and steering-vectors write, once imported, steer as those libraries do."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilothouse.edits.program import compile_program
from pilothouse.edits.sources import Sources
from pilothouse.term import SteerTerm
from tests.reference.hf_sites import SiteModel
from tests.support.artifacts.import_command import imported
from tests.support.models.tiny_architectures import NUM_LAYERS, make_architecture

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
WRITER = Path(__file__).with_name("write_vectors.py")
TOLERANCE = 1e-4
MOVED = 0.05


@pytest.fixture(scope="module")
def written(oracle_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, with the vectors that the libraries made of it."""
    folder = make_architecture(tmp_path_factory.mktemp("oracle") / "llama", "llama")
    done = subprocess.run([oracle_python, WRITER, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize(
    ("name", "format_name", "file", "layers", "scale", "words"),
    [
        ("repeng", "gguf", "repeng.gguf", "1-2", 3.0, ()),
        ("steering", "steering-vectors", "steering.pt", "1-2", -2.5, ("--allow-pickle-weights",)),
    ],
)
def test_a_vector_steers_as_in_the_library_that_made_it(
    written: Path,
    name: str,
    format_name: str,
    file: str,
    layers: str,
    scale: float,
    words: tuple[str, ...],
    tmp_path: Path,
) -> None:
    place = tmp_path / file
    place.write_bytes((written / file).read_bytes())
    source = imported(place, format_name, "--layer", layers, "--norms", "4,5", *words)
    program = compile_program(
        [SteerTerm(vector="it", scale=scale)], Sources({"it": source}, num_layers=NUM_LAYERS)
    )
    assert program is not None
    edits: dict[Any, Any] = {
        (tap.layer, tap.site): lambda h_TD, edit=edit: edit.apply(h_TD, program.coefficient)
        for tap, edit in program.layers.items()
    }
    with np.load(written / "logits.npz") as logits:
        wanted_TV, plain_TV = logits[name], logits["plain"]
    token_ids = json.loads((written / "words.json").read_text())
    oracle = SiteModel(written, "llama")
    assert np.abs(oracle.run(token_ids).logprobs_TV - log_softmax(plain_TV)).max() < TOLERANCE
    assert np.abs(log_softmax(wanted_TV) - log_softmax(plain_TV)).max() > MOVED
    got_TV = oracle.run(token_ids, edits).logprobs_TV
    assert np.abs(got_TV - log_softmax(wanted_TV)).max() < TOLERANCE


def log_softmax(logits_TV: np.ndarray) -> np.ndarray:
    wide_TV = logits_TV.astype(np.float64)
    wide_TV = wide_TV - wide_TV.max(axis=1, keepdims=True)
    return wide_TV - np.log(np.exp(wide_TV).sum(axis=1, keepdims=True))
