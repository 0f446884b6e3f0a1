"""docs/reference/flags.md says what engine/unsupported_flags.py does."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from pilothouse.engine.unsupported_flags import (
    REFUSALS,
    REFUSED_VARIABLES,
    UNTESTED_TOGETHER,
    refuse_settings,
)
from pilothouse.errors import UnsupportedError

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "flags.md").read_text(encoding="utf-8")


def test_the_page_lists_every_refused_flag_with_its_reason() -> None:
    missing = [
        refusal.flag
        for refusal in REFUSALS
        if f"| `{refusal.flag}` | {refusal.reason} |" not in PAGE
    ]
    assert not missing


def test_the_page_lists_every_pair_that_is_refused() -> None:
    missing = [pair for pair in UNTESTED_TOGETHER if f"| `{pair[0]}` | `{pair[1]}` |" not in PAGE]
    assert not missing


@pytest.mark.parametrize("pair", UNTESTED_TOGETHER, ids=" ".join)
def test_a_pair_is_refused_and_each_alone_is_not(pair: tuple[str, str]) -> None:
    settings = {
        "--pipeline-parallel-size": {"pipeline_parallel_size": 2},
        "--tensor-parallel-size": {"tensor_parallel_size": 2},
        "--speculative-config": {"speculative_config": {"method": "ngram"}},
        "--enable-lora": {"enable_lora": True},
    }
    for flag in pair:
        refuse_settings(Namespace(**settings[flag]))
    with pytest.raises(UnsupportedError, match=f"{pair[0]} together with {pair[1]}"):
        refuse_settings(Namespace(**settings[pair[0]], **settings[pair[1]]))


@pytest.mark.parametrize("root_path", ["/", "/llm/"])
def test_a_root_path_is_refused_with_a_slash_at_its_end_alone(root_path: str) -> None:
    for fine in (None, "", "/llm"):
        refuse_settings(Namespace(root_path=fine))
    with pytest.raises(UnsupportedError, match="--root-path"):
        refuse_settings(Namespace(root_path=root_path))


def test_the_page_lists_every_refused_variable() -> None:
    missing = [
        name for name, reason in REFUSED_VARIABLES.items() if f"| `{name}` | {reason} |" not in PAGE
    ]
    assert not missing
