"""Words that leave a claim open count against those that close it."""

from __future__ import annotations

from pilothouse.demo.judges.hedging import hedging


def test_open_claims_are_above_closed_ones() -> None:
    open_claim = "It might rain, perhaps, but I am not sure."
    closed_claim = "It will definitely rain, without any doubt."
    assert hedging(open_claim) > hedging("It will rain in the afternoon.") > hedging(closed_claim)


def test_the_count_is_in_a_hundred_words() -> None:
    assert hedging("perhaps yes") == 50.0
    assert hedging("certainly yes") == -50.0
    assert hedging("") == 0.0


def test_parts_of_words_do_not_count() -> None:
    assert hedging("mighty dismay nevertheless mustard") == 0.0
