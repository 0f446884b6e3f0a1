"""Pairs of flags and spellings of a setting that are refused, and each alone that is not."""

from __future__ import annotations

from argparse import Namespace

import pytest

from pilothouse.engine.unsupported_flags import (
    UNTESTED_TOGETHER,
    refuse_settings,
)
from pilothouse.errors import UnsupportedError


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
