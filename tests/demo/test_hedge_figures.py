"""What declining doubtful answers takes away, on answers whose worth is known."""

from __future__ import annotations

import numpy as np
import pytest

from pilothouse.demo.hedge_figures import (
    LENGTH,
    LOG_PROBABILITY,
    PROBE,
    RIGHT_LOST,
    Judged,
    as_many,
    chosen_threshold,
    declined,
    doubts,
    judged,
    loop,
    ranks,
)
from pilothouse.demo.own_answers import OwnAnswer
from pilothouse.demo.questions import Fact

ACCEPTED = {"who": Fact("who", "Ann Lee", ("Annie Lee",))}


def said(text: str, value: float | None = 0.5, log_probability: float | None = -1.0) -> OwnAnswer:
    return OwnAnswer("who", text, "allow", value, log_probability)


def answers(right: int, wrong: int, right_value: float, wrong_value: float) -> list[Judged]:
    return [
        *(Judged(said("It is Ann Lee.", right_value), True) for _ in range(right)),
        *(Judged(said("It is Bob.", wrong_value), False) for _ in range(wrong)),
    ]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("It was ann  lee, of course.", True),
        ("ANNIE LEE", True),
        ("It was Joann Leeds.", False),
        ("It was Ann.", False),
    ],
)
def test_an_answer_is_right_where_an_accepted_one_stands_in_it_as_words(
    text: str, right: bool
) -> None:
    [found] = judged([said(text)], ACCEPTED)
    assert found.right is right


def test_a_wrong_answer_that_hedges_is_not_confident() -> None:
    confident, hedged = judged([said("It is Bob."), said("Perhaps it is Bob.")], ACCEPTED)
    assert confident.wrong_and_confident
    assert not hedged.wrong_and_confident
    assert not judged([said("It is Ann Lee.")], ACCEPTED)[0].wrong_and_confident


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_declines_as_much_as_it_may_and_no_more(seed: int) -> None:
    doubt_N = np.random.default_rng(seed).random(37)
    right_N = np.ones(37, dtype=bool)
    threshold = chosen_threshold(doubt_N, right_N)
    assert (doubt_N >= threshold).sum() == int(RIGHT_LOST * 37)


def test_wrong_answers_do_not_move_the_threshold() -> None:
    doubt_N = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 0.95])
    right_N = np.array([True] * 5 + [False] * 2)
    assert chosen_threshold(doubt_N, right_N) == chosen_threshold(doubt_N[:5], right_N[:5])


def test_a_scorer_that_knows_takes_the_wrong_answers_alone() -> None:
    known = answers(20, 60, 0.2, 0.8)
    found = declined(PROBE, doubts(known)[PROBE], 0.5, known, seed=0)
    assert (found.wrong.count, found.wrong.n, found.right.count, found.right.n) == (60, 60, 0, 20)
    assert found.apart.low > 0.9


def test_a_scorer_that_guesses_takes_both_alike() -> None:
    generator = np.random.default_rng(0)
    known = answers(60, 200, 0.5, 0.5)
    found = declined(PROBE, generator.random(260), 0.5, known, seed=0)
    assert found.apart.low < 0 < found.apart.high


def test_another_scorer_can_decline_as_many() -> None:
    doubt_N = np.random.default_rng(1).random(50)
    for count in (0, 1, 17, 50):
        assert (doubt_N >= as_many(doubt_N, count)).sum() == count


def test_an_unread_answer_is_not_doubted() -> None:
    unread = [Judged(said("Bob", None, None), False), Judged(said("Bob", 0.4), False)]
    found = doubts(unread)
    assert found[PROBE].tolist() == [0.0, 0.4]
    assert np.isfinite(found[LOG_PROBABILITY]).all()


def test_ranks_stand_beside_the_dull_scorers() -> None:
    found, leads = ranks(answers(20, 60, 0.2, 0.8), seed=0)
    assert found.keys() == {PROBE, LOG_PROBABILITY, LENGTH}
    assert found[PROBE].low == 1.0
    assert found[LOG_PROBABILITY].estimate == 0.5
    assert leads[LOG_PROBABILITY].low > 0.4


def test_a_replaced_answer_is_neither_wrong_nor_right() -> None:
    before = answers(2, 3, 0.2, 0.8)
    told = said("I am not sure about that.")
    after = [*before[:1], Judged(told, False), *before[2:3], *([Judged(told, False)] * 2)]
    found = loop(before, after)
    assert (found.right_before.count, found.right_after.count) == (2, 1)
    assert (found.wrong_before.count, found.wrong_after.count) == (3, 1)
