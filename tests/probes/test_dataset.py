"""Captured activations keep their sequences, whatever is cut out of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from pilothouse.errors import ConfigError
from pilothouse.probes.dataset import Example, dataset_of
from pilothouse.types import Scope
from tests.support.training.planted_activations import LAYERS, planted

SHAPE = (2, 3)


def example(tokens: int, prompt_tokens: int, mark: float) -> Example:
    hidden = np.arange(tokens, dtype=np.float32)[:, None, None] + mark
    return Example(
        hidden_TLD=np.broadcast_to(hidden, (tokens, *SHAPE)).copy(),
        prompt_tokens=prompt_tokens,
        label=mark > 100,
        group=str(mark),
        family="f",
        text=f"text {mark}",
    )


DATASET = dataset_of([example(5, 3, 0), example(2, 2, 100), example(4, 0, 200)], (1, 2))


def marks(scope: Scope) -> list[list[float]]:
    cut = DATASET.scoped(scope)
    first = cut.hidden_LTD[0, :, 0]
    return [first[a:b].tolist() for a, b in pairwise(cut.starts)]


def test_prompt_is_what_stands_before_the_answer() -> None:
    assert marks("prompt") == [[0, 1, 2], [100, 101]]


def test_output_is_every_token_after_the_prompt() -> None:
    assert marks("output") == [[3, 4], [200, 201, 202, 203]]


def test_answer_has_the_last_prompt_token_too() -> None:
    assert marks("answer") == [[2, 3, 4], [101], [200, 201, 202, 203]]


def test_a_scope_carries_labels_and_texts_along() -> None:
    output = DATASET.scoped("output")
    assert output.labels_N.tolist() == [False, True]
    assert output.texts_N.tolist() == ["text 0", "text 200"]
    assert output.groups_N.tolist() == ["0", "200"]


@pytest.mark.parametrize("scope", ["prompt", "output", "answer"])
def test_a_scope_of_a_scope_is_the_same(scope: Scope) -> None:
    once = DATASET.scoped(scope)
    twice = once.scoped(scope)
    assert np.array_equal(once.hidden_LTD, twice.hidden_LTD)
    assert np.array_equal(once.starts, twice.starts)


def test_a_selection_keeps_whole_sequences() -> None:
    chosen = DATASET.select([False, True, True])
    assert chosen.hidden_LTD[0, :, 0].tolist() == [100, 101, 200, 201, 202, 203]
    assert chosen.lengths_N.tolist() == [2, 4]
    assert len(DATASET.select([False] * 3)) == 0


def test_a_layer_is_found_by_its_number() -> None:
    data = planted(4, 0)
    assert np.array_equal(data.hidden_TD(6), data.hidden_LTD[2])
    narrow = data.with_layers((6, 2))
    assert np.array_equal(narrow.hidden_TD(6), data.hidden_TD(6))
    assert np.array_equal(narrow.hidden_TD(2), data.hidden_TD(2))
    with pytest.raises(ConfigError, match=r"layers: got \[4\], want any of \[6, 2\]"):
        narrow.hidden_TD(4)


def test_a_layer_that_was_not_captured_is_named() -> None:
    with pytest.raises(ConfigError, match=r"layers: got \[3\], want any of \[2, 4, 6\]"):
        planted(4, 0).with_layers((2, 3))


def test_examples_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="got no examples"):
        dataset_of([], LAYERS)
    with pytest.raises(ConfigError, match=r"example 1: got activations \(5, 2, 3\)"):
        narrow = replace(example(2, 1, 0), hidden_TLD=np.zeros((2, 1, 3), dtype=np.float32))
        dataset_of([narrow, example(5, 1, 0)], (1,))
    with pytest.raises(ConfigError, match="example 0: got 9 prompt tokens of 5"):
        dataset_of([example(5, 9, 0)], (1, 2))
    with pytest.raises(ConfigError, match=r"labels: got \(2,\), want \(3,\)"):
        DATASET.with_labels([True, False])
