"""The language of an answer is told out of all that the identifier knows."""

from __future__ import annotations

import pytest

pytest.importorskip("py3langid", reason="the judges' packages are in the extra `card`")

from pilothouse.demo.judges.language import FRENCH, SPANISH, is_french, is_spanish, language
from pilothouse.library import library_path
from pilothouse.training.pair import load_pairs


def test_a_text_without_words_has_no_language() -> None:
    assert language("1 + 1 = 2") == "und"
    assert is_french("") == is_spanish("") == 0.0


@pytest.mark.parametrize(("name", "judge"), [("french", FRENCH), ("spanish", SPANISH)])
def test_our_own_pairs_are_told_apart(name: str, judge: object) -> None:
    pairs = load_pairs(library_path("examples/smol") / "pairs" / f"{name}.jsonl")
    score = FRENCH.score if judge is FRENCH else SPANISH.score
    assert all(score(each.positive) == 1.0 for each in pairs)
    assert all(score(each.negative) == 0.0 for each in pairs)


def test_french_is_not_spanish() -> None:
    text = "Le soleil est une étoile et il nous donne la lumière."
    assert (is_french(text), is_spanish(text)) == (1.0, 0.0)
