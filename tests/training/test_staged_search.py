"""How much of the choosing pairs a search reads: bounded in tokens, whatever their number."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.training.fit_engine import FitEngine
from pilothouse.training.fit_options import Asking, Part
from pilothouse.training.scored_text import ScoredText
from pilothouse.training.staged_search import (
    IN_THE_RACE,
    LEAST_PAIRS,
    SEARCHED,
    fed_tokens,
    smaller,
)

BLOCK = 32
ENGINE: Any = SimpleNamespace(block_size=BLOCK)
ENGINE.shared_tokens = lambda line: FitEngine.shared_tokens(ENGINE, line)


def part(pairs: int, prompt: int, answer: int) -> Part:
    """Pairs of this many tokens, numbered by their first, with a neutral text and a question."""

    def lines(count: int) -> tuple[ScoredText, ...]:
        return tuple(ScoredText((n, *range(prompt + answer - 1)), prompt) for n in range(count))

    return Part(
        groups=tuple(map(str, range(pairs))),
        positives=lines(pairs),
        negatives=lines(pairs),
        neutral=lines(pairs),
        questions=(Asking((1,), "yes"),),
    )


def test_what_is_shared_is_whole_blocks_before_the_last_token_of_a_prompt() -> None:
    line = ScoredText(tuple(range(200)), 2 * BLOCK)
    assert ENGINE.shared_tokens(line) == BLOCK  # the last prompt token is computed, for its score
    assert ENGINE.shared_tokens(line._replace(start=2 * BLOCK + 1)) == 2 * BLOCK
    assert ENGINE.shared_tokens(line._replace(start=1)) == 0


def test_a_steered_prompt_is_computed_once_for_both_sides_and_an_unsteered_one_never() -> None:
    one = part(1, 2 * BLOCK + 1, 10)
    whole, own = 2 * BLOCK + 11, 11
    assert fed_tokens(one, ENGINE, "output") == 3 * own
    assert fed_tokens(one, ENGINE, "prompt") == whole + own + whole


def test_a_few_short_pairs_are_all_read() -> None:
    few = part(6, 44, 20)
    assert smaller(few, 10_000, ENGINE, "output").positives == few.positives


def test_nobody_is_asked_questions_while_layers_are_looked_for() -> None:
    assert smaller(part(6, 44, 20), 10_000, ENGINE, "output").questions == ()


@settings(deadline=None)  # a loaded machine must not fail a property
@given(st.integers(1, 400), st.integers(1, 300), st.integers(1, 100), st.integers(100, 20_000))
def test_what_is_read_is_bounded_or_the_least_there_is(
    pairs: int, prompt: int, answer: int, tokens: int
) -> None:
    found = smaller(part(pairs, prompt, answer), tokens, ENGINE, "output")
    count = len(found.positives)
    assert count == len(found.negatives) == len(found.groups) == len(found.neutral)
    assert fed_tokens(found, ENGINE, "output") <= tokens or count == min(pairs, LEAST_PAIRS)


def test_the_share_is_even_and_pairs_stay_pairs() -> None:
    found = smaller(part(100, 44, 20), 1000, ENGINE, "output")
    numbers = [line.ids[0] for line in found.positives]
    assert numbers == [line.ids[0] for line in found.negatives] == list(map(int, found.groups))
    gaps = [after - before for before, after in pairwise(numbers)]
    assert max(gaps) - min(gaps) <= 1
    assert numbers[0] == 0


@pytest.mark.parametrize("number", range(1, len(IN_THE_RACE)))
def test_ever_fewer_layers_go_on(number: int) -> None:
    assert IN_THE_RACE[number - 1] >= IN_THE_RACE[number]
    assert IN_THE_RACE[0] == SEARCHED
