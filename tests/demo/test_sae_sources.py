"""The SAE's texts: read once each, and dealt out by their titles."""

from __future__ import annotations

import json

from pilothouse.demo.sae.sources import (
    CHATS,
    HELD_OUT_OF,
    SOURCES,
    goals,
    is_held_out,
    passages,
    plots,
    scenes,
)
from pilothouse.demo.texts.text_set import Text
from pilothouse.demo.wheels import WHEELS


def lines(*objects: dict[str, object]) -> str:
    return "\n".join(json.dumps(each) for each in objects)


def test_a_text_that_stands_there_twice_is_read_once() -> None:
    same = {"passage": "Bell -- It rings. ", "question": "does it"}
    assert passages(lines(same, same)) == [Text("Bell -- It rings.", False, "Bell")]
    assert plots(lines(same, same)) == [Text("Bell -- It rings.", False, "Bell -- It rings.")]
    assert goals(lines(same), lines(same, {"question": ""})) == [Text("does it", False, "does it")]
    assert scenes(lines(same, same)) == [Text("does it", False, "does it")]


def test_texts_of_one_title_train_or_test_together() -> None:
    one, other = passages(lines({"passage": "Bell -- It rings."}, {"passage": "Bell -- Iron."}))
    assert is_held_out(one) == is_held_out(other)
    shares = [is_held_out(Text("", False, str(each))) for each in range(4000)]
    assert 0.8 / HELD_OUT_OF < sum(shares) / len(shares) < 1.2 / HELD_OUT_OF


def test_every_set_is_in_a_pinned_wheel_and_says_whose_texts_it_holds() -> None:
    for each in (*SOURCES, *CHATS):
        assert each.texts.wheel in WHEELS
        assert each.upstream and each.texts.count >= each.most
        assert len(each.texts.digest) == 64
