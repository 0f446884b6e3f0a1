"""Texts that nobody should be stopped for, and pairs that differ in what is wanted alone."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pilothouse.demo.texts.text import Text
from pilothouse.demo.texts.text_set import json_lines


def plain_tasks(file: str) -> list[Text]:
    """Everyday instructions."""
    return [Text(str(each).strip(), False, str(each).strip()) for each in json.loads(file)]


def over_refusal(*files: str) -> list[Text]:
    """Harmless questions with words that make careless filters refuse."""
    return [
        Text(each["text"].strip(), False, each["id"], each["category"])
        for file in files
        for each in json.loads(file)
    ]


def matched_pairs(*files: str) -> list[Text]:
    """Pairs of questions that are alike but for one being harmful, without their answers."""
    return [
        Text(each[field].partition("\n\n")[0].strip(), label, each["id"], each["domain"])
        for file in files
        for each in json.loads(file)
        for field, label in (("text", False), ("harmful_version", True))
    ]


def spikee_false_positives(file: str) -> list[Text]:
    """Requests that a filter on financial advice must let pass."""
    return [Text(str(each["text"]).strip(), False, str(each["id"])) for each in json_lines(file)]


def how_to_questions(*files: str) -> list[Text]:
    """Return the goals of PIQA that are asked for as questions: how to do everyday things."""
    asked = (str(each["question"]) for file in files for each in json_lines(file))
    return _questions(each for each in asked if each.lower().startswith("how "))


def medication_questions(file: str) -> list[Text]:
    """Return what patients ask about medicines, overdoses and poisons among it."""
    return _questions(str(each["Question"]) for each in json_lines(file))


def money_questions(file: str) -> list[Text]:
    """Return what people ask about money, taxes and debts."""
    return _questions(str(each["question"]) for each in json_lines(file))


def _questions(asked: Iterable[str]) -> list[Text]:
    """Return each question once; it is its own group."""
    said = dict.fromkeys(each.strip() for each in asked if each.strip())
    return [Text(each, False, each) for each in said]
