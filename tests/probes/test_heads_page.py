"""The page of heads: every kind has a section, and its example runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilothouse.artifacts.probe import load_probe
from pilothouse.head import TRAITS
from tests.reference.heads import head_logit

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "probe-heads.md"


def test_every_kind_has_a_section() -> None:
    sections = re.findall(r"^## (\S+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(TRAITS) <= set(sections)


def test_the_example_makes_a_probe_and_scores_tokens_with_it(tmp_path: Path) -> None:
    [block] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"folder": tmp_path}
    exec(block, names)
    loaded = load_probe("looks", tmp_path)
    states_LTD = names["states_LTD"]
    want = [
        head_logit(loaded.head, loaded.tensors, states_LTD[:, : stop + 1])
        for stop in range(states_LTD.shape[1])
    ]
    assert names["logits_T"] == pytest.approx(np.array(want))
