"""The vectors of the real model: what each is fitted on, where it edits, and who judges it.

Layers and places were settled on the choosing questions; strengths are chosen anew by each run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pilothouse.demo.judges import JUDGES
from pilothouse.demo.judges.judge import Judge, Sign
from pilothouse.term import SteerTerm

Where = Literal["output", "answer"]
"""`answer` is the output and the prompt's last token, from which the first token comes."""


@dataclass(frozen=True, slots=True)
class Pole:
    """One way that a vector points, as a profile has it."""

    name: str
    sign: Sign


@dataclass(frozen=True, slots=True)
class Subject:
    """A vector and how it is put to use.

    Args:
        name: of the vector, of its pairs' file and of its positive pole.
        judge: a name in `JUDGES`.
        poles: those that have a profile.
        layers: where it edits; each gets the strength that is chosen.
        strengths: those that are tried, as shares of the stream's mean length at each layer.
        negative: what the other side of its pairs is, in a word.
        max_perplexity_ratio: how much more surprising answers may be to the unsteered model. Those
            in a language of which it has read little are so however fluent they are.
    """

    name: str
    judge: str
    poles: tuple[Pole, ...]
    layers: tuple[int, ...]
    where: Where
    strengths: tuple[float, ...]
    negative: str
    max_perplexity_ratio: float = 4.0

    @property
    def judged_by(self) -> Judge:
        """The judge itself."""
        return JUDGES[self.judge]


def _both(positive: str, negative: str) -> tuple[Pole, ...]:
    return (Pole(positive, 1), Pole(negative, -1))


LAYERS: Final = tuple(range(5, 29))
"""Those at which pairs are read: a vector edits some of them."""
LATE: Final = (27,)
LATE_STRENGTHS: Final = (0.2, 0.27, 0.35, 0.42)
"""Of a mood: above these the model says one word over and over."""
BEFORE_LATE: Final = (24,)
LANGUAGE_STRENGTHS: Final = (0.2, 0.25, 0.3, 0.35)
MIDDLE: Final = tuple(range(14, 22))
STRENGTHS: Final = (0.03, 0.04, 0.05, 0.06)
SUBJECTS: Final = (
    Subject(
        "cheerful", "mood", _both("cheerful", "gloomy"), LATE, "answer", LATE_STRENGTHS, "gloomy"
    ),
    Subject(
        "french", "french", (Pole("french", 1),), BEFORE_LATE, "answer", LANGUAGE_STRENGTHS,
        "English", 15.0,
    ),
    Subject(
        "spanish", "spanish", (Pole("spanish", 1),), BEFORE_LATE, "answer", LANGUAGE_STRENGTHS,
        "English", 15.0,
    ),
    Subject(
        "formal", "formality", _both("formal", "casual"), MIDDLE, "answer", STRENGTHS, "casual"
    ),
    Subject("brief", "length", _both("brief", "wordy"), MIDDLE, "answer", STRENGTHS, "wordy"),
    Subject(
        "hedged", "hedging", _both("hedged", "confident"), MIDDLE, "answer", STRENGTHS, "confident"
    ),
    Subject("refuses", "refusal", (Pole("refuses", 1),), MIDDLE, "answer", STRENGTHS, "complies"),
)  # fmt: skip


def terms_of(vector: str, strength: float, where: Where) -> tuple[SteerTerm, ...]:
    """Return the terms that steer with a vector; a negative strength turns it round."""
    output = SteerTerm(vector=vector, scale=strength, unit="residual", on="output")
    if where == "output":
        return (output,)
    last = SteerTerm.model_validate({
        "vector": vector, "scale": strength, "unit": "residual", "on": "prompt",
        "positions": "last_prompt",
    })  # fmt: skip
    return (last, output)
