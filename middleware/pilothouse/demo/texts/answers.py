"""Answers to open questions, judged by people; a positive is wrong."""

from __future__ import annotations

from pilothouse.demo.texts.text import Text
from pilothouse.demo.texts.text_set import json_lines

OF_A_KIND = 2
"""Answers taken of a question that were judged alike: some questions have dozens."""


def questions(file: str) -> list[Text]:
    """Every question of NQ-open: people asked them, and none is harmful."""
    return [Text(str(each["question"]), False, str(each["question"])) for each in json_lines(file)]


def accepted_answers(file: str) -> list[Text]:
    """Return every answer that a question of NQ-open accepts, those that people added among them.

    The group of each is its question.
    """
    return [
        Text(said, False, question, question=question)
        for each in json_lines(file)
        for question in [str(each["question"])]
        for said in _said(each.get("answer_and_def_correct_predictions") or each["answer"])
    ]


def judged_answers(file: str) -> list[Text]:
    """Answers that people judged right or wrong, of questions that have both.

    A question whose answers are all of one kind would let a probe read the question alone.
    """
    found = []
    for each in json_lines(file):
        question = str(each["question"])
        kinds = (
            ("right", False, _said(each.get("def_correct_predictions"))),
            ("wrong", True, _said(each.get("def_incorrect_predictions"))),
        )
        if all(said for _, _, said in kinds):
            found += [
                Text(said, label, question, kind, question=question)
                for kind, label, all_said in kinds
                for said in all_said[:OF_A_KIND]
            ]
    return found


def _said(predictions: object) -> list[str]:
    """Each answer once, in the order of the file."""
    given = predictions if isinstance(predictions, list) else []
    return list(dict.fromkeys(str(each).strip() for each in given if str(each).strip()))
