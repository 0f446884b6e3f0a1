"""`import_sae` from Python: an SAE in our own layout, measured by who asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pilothouse.artifacts import import_sae
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.native import NAME
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.errors import ArtefactError
from pilothouse.types import Tap
from tests.support.artifacts import sae_files as files
from tests.support.artifacts.sae_files import FEATURES, WIDTH, book


class Lengths:
    """What a model would give."""

    def average_norm(self) -> float:
        return 7.0

    def largest_codes(self, sae: Sae) -> np.ndarray:
        return np.arange(sae.num_features, dtype=np.float64)


def test_it_writes_an_sae_that_is_read_back(tmp_path: Path) -> None:
    foreign = files.saelens(tmp_path / "foreign", book("topk"))
    titles: list[str] = []

    @contextmanager
    def waiting(title: str) -> Iterator[None]:
        titles.append(title)
        yield

    imported = import_sae(foreign, tmp_path / "own", waiting=waiting)
    assert imported.sae.digest == load_sae("own", tmp_path / "own", NAME).digest
    assert imported.manifest.source.format == "saelens"
    assert imported.sae.num_features == FEATURES
    assert any("writing" in each for each in titles)


def test_what_a_model_gives_is_measured_at_the_saes_own_tap(tmp_path: Path) -> None:
    foreign = files.saelens(tmp_path / "foreign", book("topk"))
    asked: list[tuple[Tap, int]] = []

    @contextmanager
    def measure(tap: Tap, width: int) -> Iterator[Lengths]:
        asked.append((tap, width))
        yield Lengths()

    sae = import_sae(foreign, tmp_path / "own", measure=measure).sae
    assert asked == [(sae.tap, WIDTH)]
    assert sae.max_act_M is not None
    assert sae.max_act_M.tolist() == list(range(FEATURES))


def test_a_pickle_is_left_alone_unless_it_is_allowed(tmp_path: Path) -> None:
    foreign = files.dictionary_learning(tmp_path / "foreign", book("gated"), "GatedAutoEncoder")
    if not (foreign / "ae.pt").exists():
        (foreign / "ae.safetensors").unlink()
        (foreign / "ae.pt").write_bytes(b"PK")
    with pytest.raises(ArtefactError, match="add allow_pickle_weights=True"):
        import_sae(foreign, tmp_path / "own")
    assert not (tmp_path / "own").exists()
