"""docs/guides/saes.md: a row for every layout, a valid configuration, terms that compile."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml

from pilothouse.artifacts.saes.hints import SaeHints
from pilothouse.artifacts.saes.registry import FORMATS, load_sae
from pilothouse.config import SaeRef, parse_config
from pilothouse.edits.program import compile_program
from pilothouse.edits.sources import Sources
from pilothouse.term import SteerTerm
from pilothouse.types import FeatureOp
from tests.support.artifacts import sae_files as files
from tests.support.parity.sae_cases import D_MODEL, FEATURES, book

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "guides" / "saes.md").read_text(encoding="utf-8")
OPERATORS = (DOCS / "reference" / "operators" / "feature.md").read_text(encoding="utf-8")
TERMS = [
    json.loads(line)
    for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]


def test_the_table_has_every_layout_and_no_other() -> None:
    [table] = re.findall(r"^\| `format` \| files.*?\n\n", PAGE, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) - {"format"} == set(FORMATS)


def test_the_fields_of_an_entry_are_those_of_the_page() -> None:
    [table] = re.findall(r"\| field \| meaning \|.*?\n\n", PAGE, re.DOTALL)
    named = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    told = {field for cell in named for field in re.findall(r"`(\w+)`", cell)}
    assert told == set(SaeRef.model_fields)


def test_the_operators_of_features_are_those_of_the_page() -> None:
    [table] = re.findall(r"\| `op` \|.*?\n\n", OPERATORS, re.DOTALL)
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) - {"op"} == set(
        get_args(FeatureOp)
    )


def test_the_configuration_of_the_page_is_one() -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    config = parse_config(yaml.safe_load(text), folder=Path("/here"), origin="docs/guides/saes.md")
    assert set(config.saes) == {"topics"} and "feature" in config.taps.operators


@pytest.mark.parametrize("term", TERMS, ids=str)
def test_the_terms_of_the_page_can_be_compiled(term: dict[str, Any], tmp_path: Path) -> None:
    count = 2049
    draw = np.random.default_rng(0)
    wide = book(
        "jumprelu",
        1,
        **{
            "W_enc": draw.normal(size=(D_MODEL, count)),
            "W_dec": draw.normal(size=(count, D_MODEL)),
            "b_enc": np.zeros(count),
            "threshold": np.ones(count),
        },
    )
    assert count > FEATURES
    place = files.saelens(tmp_path / "sae", wide, d_in=D_MODEL, d_sae=count)
    files.save(place / "features.safetensors", {"max_act": np.full(count, 5.0)})
    files.write_json(place / "labels.json", {"512": "the tide"})
    sae = load_sae("topics", place, None, SaeHints(average_norm=7.0))
    terms = [SteerTerm.model_validate(term)]
    assert compile_program(terms, Sources({}, saes={"topics": sae})) is not None


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", PAGE):
        assert (DOCS / "guides" / target).is_file(), target
