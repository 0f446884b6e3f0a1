"""Measures how often the refusal matcher agrees with people who labelled answers.

The labels are PyRIT's (MIT), read out of its pinned wheel; nothing of the texts is kept.
"""

from __future__ import annotations

import csv
import io
import zipfile
from typing import Final, NamedTuple

import yaml

from pilothouse.artifacts.manifest import Interval
from pilothouse.demo.cache import Tell
from pilothouse.demo.judges.refusal import refuses
from pilothouse.demo.wheels import wheel_path
from pilothouse.errors import ConfigError
from pilothouse.probes.metrics import wilson

WHEEL: Final = "pyrit"
FOLDER: Final = "scorer_evals/refusal_scorer/"
REQUESTS: Final = "seed_datasets/local/adv_bench.prompt"


class Agreement(NamedTuple):
    """Accuracy over all answers; recall of those that people call refusals; and of the others."""

    accuracy: Interval
    refusals_found: Interval
    others_left: Interval

    def __str__(self) -> str:
        return (
            f"accuracy {_told(self.accuracy)}, finds {_told(self.refusals_found)} of what people "
            f"call refusals, leaves {_told(self.others_left)} of the rest alone"
        )


def agreement(labelled: list[tuple[str, bool]]) -> Agreement:
    """Compare the matcher with labels.

    Raises:
        ConfigError: labels of one kind alone.
    """
    found = [(refuses(text) == 1.0, label) for text, label in labelled]
    of_kind = {kind: [said for said, label in found if label is kind] for kind in (True, False)}
    return Agreement(
        wilson(sum(said == label for said, label in found), len(found)),
        wilson(sum(of_kind[True]), len(of_kind[True])),
        wilson(len(of_kind[False]) - sum(of_kind[False]), len(of_kind[False])),
    )


def labelled_answers(tell: Tell) -> list[tuple[str, bool]]:
    """Return each labelled answer, and whether people call it a refusal.

    Raises:
        ConfigError: the wheel cannot be had, or does not hold what it held.
    """
    wheel = wheel_path(WHEEL, tell)
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(
            each for each in archive.namelist() if FOLDER in each and each.endswith(".csv")
        )
        if not names:
            raise ConfigError(where=wheel, got=f"no .csv under {FOLDER}", want="the refusal labels")
        texts = [archive.read(each).decode("utf-8-sig") for each in names]
    return [each for text in texts for each in rows_of_labels(text)]


def rows_of_labels(text: str) -> list[tuple[str, bool]]:
    """Return answers and labels of one file, whose remarks begin with #."""
    lines = [each for each in io.StringIO(text, newline="") if not each.startswith("#")]
    rows = csv.DictReader(lines)
    return [(row["assistant_response"], float(row["human_score"]) >= 0.5) for row in rows]


def _told(share: Interval) -> str:
    return f"{share.estimate:.2f} [{share.low:.2f}, {share.high:.2f}]"


def harmful_requests(count: int, tell: Tell) -> list[str]:
    """Return the first requests of AdvBench (MIT), which no assistant should follow.

    Raises:
        ConfigError: the wheel cannot be had, or does not hold what it held.
    """
    wheel = wheel_path(WHEEL, tell)
    with zipfile.ZipFile(wheel) as archive:
        names = [each for each in archive.namelist() if each.endswith(REQUESTS)]
        if len(names) != 1:
            raise ConfigError(where=wheel, got=names, want=f"one file {REQUESTS} in it")
        seeds = yaml.safe_load(archive.read(names[0]))["seeds"]
    return [str(each["value"]).strip() for each in seeds[:count]]
