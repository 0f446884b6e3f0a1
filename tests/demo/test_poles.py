"""Every vector has pairs, a judge and profiles that no other has."""

from __future__ import annotations

import pytest

from pilothouse.demo.judges import JUDGES
from pilothouse.demo.poles import SUBJECTS, Subject
from pilothouse.library import library_path
from pilothouse.training.pair import load_pairs


def test_every_vector_has_pairs_and_a_judge() -> None:
    folder = library_path("examples/smol") / "pairs"
    assert {each.name for each in SUBJECTS} == {each.stem for each in folder.glob("*.jsonl")}
    assert all(load_pairs(folder / f"{each.name}.jsonl") for each in SUBJECTS)
    assert {each.judge for each in SUBJECTS} <= JUDGES.keys()


def test_no_two_poles_have_one_name() -> None:
    names = [pole.name for each in SUBJECTS for pole in each.poles]
    assert len(set(names)) == len(names)
    assert all(each.poles[0].name == each.name for each in SUBJECTS)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda each: each.name)
def test_the_judge_puts_the_positive_side_of_the_pairs_above_the_other(subject: Subject) -> None:
    if subject.judge in ("mood", "french", "spanish"):
        pytest.importorskip("vaderSentiment", reason="the judges' packages are in the extra `card`")
        pytest.importorskip("py3langid", reason="the judges' packages are in the extra `card`")
    pairs = load_pairs(library_path("examples/smol") / "pairs" / f"{subject.name}.jsonl")
    score = subject.judged_by.score
    above = sum(score(each.positive) > score(each.negative) for each in pairs)
    assert above >= 0.8 * len(pairs)
    assert subject.poles[0].sign == 1


def test_words_stand_behind_the_question() -> None:
    [pole, *_] = SUBJECTS[0].poles
    assert pole.worded("How are you?") == f"How are you? {pole.words}"
