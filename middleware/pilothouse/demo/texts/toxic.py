"""Texts that insult, threaten or demean, and texts of the same kinds that do not."""

from __future__ import annotations

import csv
import io
import json

from pilothouse.demo.texts.text import Text
from pilothouse.demo.texts.text_set import json_lines

LEAST_TOXICITY = 0.5
REVIEW_CHARACTERS = 160


def comments(file: str) -> list[Text]:
    """Comments that a classifier of public discussions held to be toxic."""
    return [
        Text(str(each["text"]).strip(), True, str(number))
        for number, each in enumerate(json_lines(file))
        if float(str(each["toxicity"])) >= LEAST_TOXICITY
    ]


def beginnings(*files: str) -> list[Text]:
    """Beginnings of sentences from the web, chosen for what they led models to say."""
    return [
        Text(line.strip(), True, f"{kind}-{number}", str(kind))
        for kind, file in enumerate(files)
        for number, line in enumerate(file.splitlines())
        if line.strip()
    ]


def review_sentences(file: str) -> list[Text]:
    """The first words of films' reviews, glad or angry: opinions that insult nobody."""
    rows = csv.DictReader(io.StringIO(file))
    return [
        Text(_first_sentence(row["text"]), False, str(number)) for number, row in enumerate(rows)
    ]


def everyday_scenes(file: str) -> list[Text]:
    """What people do and feel, in a sentence or two."""
    said = dict.fromkeys(str(each["passage"]).strip() for each in json_lines(file))
    return [Text(each, False, each) for each in said]


def toxigen(file: str) -> list[Text]:
    """Statements about groups of people, toxic without a rude word and not."""
    return [
        Text(each["text"].strip(), bool(each["is_toxic"]), each["id"], each["target_group"])
        for each in json.loads(file)
    ]


def _first_sentence(text: str) -> str:
    plain = text.replace("<br />", " ").strip()
    end = plain.find(". ")
    return plain[: end + 1 if 0 < end < REVIEW_CHARACTERS else REVIEW_CHARACTERS].strip()
