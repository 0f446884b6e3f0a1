"""What vLLM says of a prompt's tokens, by its own container of log-probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm.logprobs import FlatLogprobs, Logprob

from pilothouse.errors import EngineError
from pilothouse.training.scored_text import ScoredText, said_of

TOKENS = st.lists(
    st.tuples(st.integers(0, 9), st.floats(-20, 0), st.integers(1, 4)), min_size=1, max_size=12
)


def scored(tokens: list[tuple[int, float, int]], others: int = 0) -> FlatLogprobs:
    """Each token's own entry first, behind it `others` that are likelier; none for the first."""
    flat = FlatLogprobs()
    for place, (token, log_probability, rank) in enumerate(tokens):
        own = {token: Logprob(log_probability, rank)}
        more = {100 + each: Logprob(-0.5, each + 1) for each in range(others)}
        flat.append(None if place == 0 else own | more)
    return flat


@given(TOKENS, st.integers(1, 12), st.integers(0, 3))
def test_the_mean_is_that_of_the_tokens_own_log_probabilities(
    tokens: list[tuple[int, float, int]], start: int, others: int
) -> None:
    ids = tuple(token for token, _, _ in tokens)
    said = said_of(ScoredText(ids, start), scored(tokens, others))
    wanted = [log_probability for _, log_probability, _ in tokens[start:]]
    assert said.log_probabilities_T.tolist() == wanted
    assert said.is_first_T.tolist() == [rank == 1 for _, _, rank in tokens[start:]]
    assert said.mean == (float(np.mean(wanted)) if wanted else 0.0)
    assert said.tops == ()


def test_a_text_that_ends_early_leaves_out_what_is_behind_it() -> None:
    tokens = [(1, 0.0, 1), (2, -1.0, 1), (3, -3.0, 2), (4, -100.0, 9)]
    assert said_of(ScoredText((1, 2, 3), 1), scored(tokens)).mean == -2.0


def test_the_likeliest_are_told_where_they_are_asked_for() -> None:
    tokens = [(1, 0.0, 1), (2, -1.0, 3)]
    said = said_of(ScoredText((1, 2), 1), scored(tokens, 2), tops=True)
    assert said.tops == [{2: -1.0, 100: -0.5, 101: -0.5}]


def test_scores_of_other_tokens_are_an_error() -> None:
    with pytest.raises(EngineError, match="other tokens"):
        said_of(ScoredText((1, 9), 1), scored([(1, 0.0, 1), (2, -1.0, 1)]))
