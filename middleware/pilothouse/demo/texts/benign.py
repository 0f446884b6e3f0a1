"""Texts that nobody should be stopped for, and pairs that differ in what is wanted alone."""

from __future__ import annotations

import json

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
