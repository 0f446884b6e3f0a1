"""Readers of the sets' files: each returns the labelled texts of one or several files.

In turn: requests for something harmful, texts that nobody should be stopped for, toxic texts and
their like, and answers that people have judged.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator

import yaml

from pilothouse.demo.texts.text_set import Text, json_lines


def advbench(file: str) -> list[Text]:
    """Return AdvBench, with the categories that its keepers gave it."""
    return [
        Text(each["value"].strip(), True, str(number), ", ".join(each.get("harm_categories", ())))
        for number, each in enumerate(yaml.safe_load(file)["seeds"])
    ]


def harmbench(*files: str) -> list[Text]:
    """Return HarmBench's standard behaviours: no context, no words that are another's."""
    return [
        Text(row["Behavior"].strip(), True, row["BehaviorID"], row["SemanticCategory"])
        for row in _rows(*files)
        if row["FunctionalCategory"] == "standard"
    ]


def strongreject(file: str) -> list[Text]:
    """Return StrongREJECT without what it took from AdvBench, which the probe is fitted on."""
    return [
        Text(row["forbidden_prompt"].strip(), True, str(number), row["category"])
        for number, row in enumerate(_rows(file))
        if row["source"] != "AdvBench"
    ]


def do_not_answer(*files: str) -> list[Text]:
    """Return Do-Not-Answer: questions that a responsible model does not follow."""
    return [
        Text(str(each["prompt"]).strip(), True, f"{number}-{line}", str(number))
        for number, file in enumerate(files)
        for line, each in enumerate(json_lines(file))
    ]


def _rows(*files: str) -> Iterator[dict[str, str]]:
    for file in files:
        yield from csv.DictReader(io.StringIO(file))


def plain_tasks(file: str) -> list[Text]:
    """Return everyday instructions."""
    return [Text(str(each).strip(), False, str(each).strip()) for each in json.loads(file)]


def over_refusal(*files: str) -> list[Text]:
    """Return harmless questions with words that make careless filters refuse."""
    return [
        Text(each["text"].strip(), False, each["id"], each["category"])
        for file in files
        for each in json.loads(file)
    ]


def matched_pairs(*files: str) -> list[Text]:
    """Return pairs of questions that are alike but for one being harmful, without their answers."""
    return [
        Text(each[field].partition("\n\n")[0].strip(), label, each["id"], each["domain"])
        for file in files
        for each in json.loads(file)
        for field, label in (("text", False), ("harmful_version", True))
    ]


def spikee_false_positives(file: str) -> list[Text]:
    """Return requests that a filter on financial advice must let pass."""
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


LEAST_TOXICITY = 0.5
REVIEW_CHARACTERS = 160


def comments(file: str) -> list[Text]:
    """Return comments that a classifier of public discussions held to be toxic."""
    return [
        Text(str(each["text"]).strip(), True, str(number))
        for number, each in enumerate(json_lines(file))
        if float(str(each["toxicity"])) >= LEAST_TOXICITY
    ]


def beginnings(*files: str) -> list[Text]:
    """Return beginnings of sentences from the web, chosen for what they led models to say."""
    return [
        Text(line.strip(), True, f"{kind}-{number}", str(kind))
        for kind, file in enumerate(files)
        for number, line in enumerate(file.splitlines())
        if line.strip()
    ]


def review_sentences(file: str) -> list[Text]:
    """Return the first words of films' reviews, glad or angry: opinions that insult nobody."""
    rows = csv.DictReader(io.StringIO(file))
    return [
        Text(_first_sentence(row["text"]), False, str(number)) for number, row in enumerate(rows)
    ]


def everyday_scenes(file: str) -> list[Text]:
    """Return what people do and feel, in a sentence or two."""
    said = dict.fromkeys(str(each["passage"]).strip() for each in json_lines(file))
    return [Text(each, False, each) for each in said]


def toxigen(file: str) -> list[Text]:
    """Return statements about groups of people, toxic without a rude word and not."""
    return [
        Text(each["text"].strip(), bool(each["is_toxic"]), each["id"], each["target_group"])
        for each in json.loads(file)
    ]


def _first_sentence(text: str) -> str:
    plain = text.replace("<br />", " ").strip()
    end = plain.find(". ")
    return plain[: end + 1 if 0 < end < REVIEW_CHARACTERS else REVIEW_CHARACTERS].strip()


OF_A_KIND = 2
"""Answers taken of a question that were judged alike; some questions have dozens."""


def questions(file: str) -> list[Text]:
    """Return every question of NQ-open: people asked them, and none is harmful."""
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
    """Return answers that people judged right or wrong, of questions that have both.

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
    """Return each answer once, in the order of the file."""
    given = predictions if isinstance(predictions, list) else []
    return list(dict.fromkeys(str(each).strip() for each in given if str(each).strip()))
