"""The closed loop's page: every figure is out of the card, and a probe that fails says so."""

from __future__ import annotations

import pytest

from pilothouse.artifacts.manifest import Interval
from pilothouse.demo.hedge_figures import Declined, HedgeCard, Loop, Share
from pilothouse.demo.hedge_page import page
from pilothouse.probes.metrics import wilson


def part(count: int, n: int) -> Share:
    return Share(count=count, n=n, share=wilson(count, n))


def around(estimate: float) -> Interval:
    return Interval(estimate=estimate, low=estimate - 0.1, high=estimate + 0.1)


def a_card(apart: float, unscored: int = 0) -> HedgeCard:
    declined = Declined(
        scorer="probe", threshold=0.61, wrong=part(40, 90), right=part(2, 10), apart=around(apart)
    )
    return HedgeCard(
        model_id="tiny",
        probe="doubt",
        probe_digest="0" * 64,
        policy="ask-again",
        seed=3,
        max_tokens=32,
        choosing=50,
        testing=100,
        right_choosing=5,
        unscored=unscored,
        threshold=0.61,
        chosen=declined,
        ranks={"probe": around(0.6), "words": around(0.5)},
        leads={"words": around(0.1)},
        declined=(declined,),
        loop=Loop(
            wrong_before=part(90, 100),
            wrong_after=part(50, 100),
            right_before=part(10, 100),
            right_after=part(8, 100),
        ),
    )


def test_the_page_shows_what_clients_got_before_and_after() -> None:
    shown = page(a_card(0.2))
    assert "| wrong and confident | 90 of 100, 90.0% [" in shown
    assert "| 50 of 100, 50.0% [" in shown
    assert "| the test | probe | 40 of 90, 44.4% [" in shown
    assert "The threshold, 0.61, is the smallest" in shown


@pytest.mark.parametrize(("apart", "carries"), [(0.2, True), (0.05, False)])
def test_a_probe_that_takes_both_alike_does_not_carry_it(apart: float, carries: bool) -> None:
    card = a_card(apart)
    assert card.carries is carries
    assert ("does not carry it" in page(card)) is not carries


def test_answers_that_were_not_read_are_told() -> None:
    assert "had no token to read" not in page(a_card(0.2))
    assert " 7 answers had no token to read" in page(a_card(0.2, unscored=7))
