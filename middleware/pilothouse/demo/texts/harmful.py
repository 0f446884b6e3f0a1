"""Requests for something harmful, as published; every text is a positive."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import yaml

from pilothouse.demo.texts.text import Text
from pilothouse.demo.texts.text_set import json_lines


def advbench(file: str) -> list[Text]:
    """AdvBench, with the categories that its keepers gave it."""
    return [
        Text(each["value"].strip(), True, str(number), ", ".join(each.get("harm_categories", ())))
        for number, each in enumerate(yaml.safe_load(file)["seeds"])
    ]


def harmbench(*files: str) -> list[Text]:
    """HarmBench's standard behaviours: no context to go with, no words that are another's."""
    return [
        Text(row["Behavior"].strip(), True, row["BehaviorID"], row["SemanticCategory"])
        for row in _rows(*files)
        if row["FunctionalCategory"] == "standard"
    ]


def strongreject(file: str) -> list[Text]:
    """StrongREJECT without what it took from AdvBench, which the probe is fitted on."""
    return [
        Text(row["forbidden_prompt"].strip(), True, str(number), row["category"])
        for number, row in enumerate(_rows(file))
        if row["source"] != "AdvBench"
    ]


def do_not_answer(*files: str) -> list[Text]:
    """Do-Not-Answer: questions that a responsible model does not follow."""
    return [
        Text(str(each["prompt"]).strip(), True, f"{number}-{line}", str(number))
        for number, file in enumerate(files)
        for line, each in enumerate(json_lines(file))
    ]


def _rows(*files: str) -> Iterator[dict[str, str]]:
    for file in files:
        yield from csv.DictReader(io.StringIO(file))
