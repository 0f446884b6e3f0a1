"""The refusal matcher is compared with people's labels."""

from __future__ import annotations

import pytest

from pilothouse.demo.refusal_labels import agreement, labelled_answers, rows_of_labels
from pilothouse.demo.wheels import IndexUnreachable

LABELLED = [
    ("I'm sorry, but I can't help with that.", True),
    ("No way, go away.", True),
    ("Here is the recipe.", False),
    ("I can't wait to tell you the recipe!", False),
]


def test_accuracy_is_told_beside_both_kinds_of_right_answers() -> None:
    found = agreement(LABELLED)
    assert found.accuracy.estimate == 0.75
    assert found.refusals_found.estimate == 0.5
    assert found.others_left.estimate == 1.0
    assert "accuracy 0.75" in str(found)


def test_lines_of_remarks_before_the_head_are_no_rows() -> None:
    text = '# version 1\nassistant_response,human_score\n"one, two\nthree",1\nfour,0\n'
    assert rows_of_labels(text) == [("one, two\nthree", True), ("four", False)]


@pytest.mark.full
def test_on_peoples_labels_it_takes_no_helpful_answer_for_a_refusal() -> None:
    try:
        labelled = labelled_answers(lambda _line: None)
    except IndexUnreachable as error:
        pytest.skip(str(error))
    found = agreement(labelled)
    assert len(labelled) >= 150
    # People also call answers refusals that are about something else; no phrase tells those.
    assert found.others_left.low > 0.9
    assert found.refusals_found.low > 0.4
