"""Measures what a model gives an SAE to read: mean length and largest codes over prompts.

The first position of each prompt is left out: many models keep a sink there, whose length and
codes are like no other token's.

Shape suffixes: R rows, D width of the site, M features.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.folder import read_file, refuse
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.capture.reader import CaptureReader
from pilothouse.edits.sae_codes import encode
from pilothouse.errors import ConfigError
from pilothouse.offline_env import set_offline_env
from pilothouse.progress import waiting
from pilothouse.training.row_file import decoded
from pilothouse.types import Tap

MAX_PROMPTS_BYTES = 64 << 20
ROWS = 512


class Measured(NamedTuple):
    """Mean length of a token, and over how many tokens."""

    num_tokens: int
    average_norm: float

    def __str__(self) -> str:
        """Return it as it is printed."""
        return f"{self.num_tokens} tokens, average norm {self.average_norm:.6g}"


class Captured:
    """Rows of one tap on disk."""

    def __init__(self, reader: CaptureReader, tap: Tap) -> None:
        self._reader, self._tap = reader, tap

    @property
    def num_tokens(self) -> int:
        """How many tokens are measured."""
        return sum(len(rows_RD) for rows_RD in self._rows())

    def measured(self) -> Measured:
        """Measure all rows."""
        total = sum(float(np.linalg.norm(rows_RD, axis=1).sum()) for rows_RD in self._rows())
        return Measured(self.num_tokens, total / self.num_tokens)

    def largest_codes(self, sae: Sae) -> NDArray[np.float64]:
        """Return max_act [M]: each feature's largest code, 0 where it was never on."""
        largest_M = np.zeros(sae.num_features)
        for rows_RD in self._rows():
            codes_RM = encode(sae, rows_RD)
            sizes_RM = np.abs(codes_RM) if sae.form == "abstopk" else codes_RM
            np.maximum(largest_M, sizes_RM.max(axis=0), out=largest_M)
        return largest_M.astype(np.float32).astype(np.float64)

    def _rows(self) -> Iterator[NDArray[np.float64]]:
        for rows_RD, labels in self._reader.rows(self._tap.layer, self._tap.site):
            kept_RD = rows_RD[labels.position_R > 0]
            for start in range(0, len(kept_RD), ROWS):
                yield kept_RD[start : start + ROWS].astype(np.float64)


@contextmanager
def measure(model: str, tap: Tap, width: int, prompts: Path, dtype: str) -> Iterator[Captured]:
    """Run prompts through the model and capture what passes the tap.

    Raises:
        ConfigError: no prompts of two tokens or more.
        ArtefactError: the model carries another width there.
    """
    from pilothouse.engine.plan.model_facts import model_facts

    texts = read_prompts(prompts)
    facts = model_facts(Namespace(model=model))
    found = facts.projection_widths.get(tap.site, facts.d_model)
    if found != width or tap.layer >= facts.num_layers:
        refuse(
            model,
            "model",
            f"width {found} at {tap.site}, {facts.num_layers} layers",
            f"width {width} and layer {tap.layer} as the SAE has",
            "measure on the model that the SAE was trained on",
        )
    set_offline_env(in_process=True)
    from pilothouse.llm import LLM  # the engine takes seconds to import

    with TemporaryDirectory(ignore_cleanup_errors=True) as room:
        with waiting(f"starting an engine with {model}"):
            llm = LLM(model, dtype=dtype, enforce_eager=True)
        reader = llm.capture(texts, layers=[tap.layer], sites=[tap.site], out=Path(room) / "rows")
        captured = Captured(reader, tap)
        if not captured.num_tokens:
            raise ConfigError(f"--measure: {prompts} has no prompt of two tokens or more")
        yield captured


def read_prompts(place: Path) -> list[str]:
    """Read the lines of a file that are not empty.

    Raises:
        ConfigError: there are none, or it is not UTF-8 text.
        ArtefactError: no plain file.
    """
    data = read_file(place, MAX_PROMPTS_BYTES, "give a text file with a prompt on each line")
    lines = [each.strip() for each in decoded(place, data).splitlines()]
    prompts = [each for each in lines if each]
    if not prompts:
        raise ConfigError(f"--measure: {place} has no prompts: write one on each line")
    return prompts
