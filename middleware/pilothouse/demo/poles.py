"""The vectors of the real model: what each is fitted on, what it is for, and who judges it.

Where each edits, and how strongly, every run finds anew on the choosing questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pilothouse.demo.judges import JUDGES
from pilothouse.demo.judges.judge import Judge, Sign

FACT_TOKENS: Final = 12
"""Room for an English sentence with a name in it."""
LONG_FACT_TOKENS: Final = 24
"""Room for a wordy sentence, or one in a language of which the tokenizer has few words."""
Asked = Literal["open", "facts"]
"""`facts` have short answers, on which alone one can see that answers become longer."""


@dataclass(frozen=True, slots=True)
class Pole:
    """One way that a vector points, as a profile has it.

    Args:
        words: what a user would write behind the question to have the same.
        asked: which questions its answers are judged on.
    """

    name: str
    sign: Sign
    words: str
    asked: Asked = "open"

    def worded(self, question: str) -> str:
        """Return a question that asks for this in words."""
        return f"{question} {self.words}"


@dataclass(frozen=True, slots=True)
class Subject:
    """A vector and what it is for.

    Args:
        name: of the vector, of its pairs' file and of its positive pole.
        judge: a name in `JUDGES`.
        poles: those that have a card.
        negative: what the other side of its pairs is, in a word.
        doses: what the search begins with, in distances between the two sides of the pairs.
        max_perplexity_ratio: how much more surprising answers may be to the unsteered model. Those
            in a language of which it has read little are so however fluent they are.
        fact_tokens: how long answers to questions for a fact are, so that it has come by then.
        is_language: whether its pole is a language, which an English question surprises.
    """

    name: str
    judge: str
    poles: tuple[Pole, ...]
    negative: str
    doses: tuple[float, ...] = (1.0, 2.0)
    max_perplexity_ratio: float = 4.0
    fact_tokens: int = FACT_TOKENS
    is_language: bool = False

    @property
    def judged_by(self) -> Judge:
        """The judge of that name."""
        return JUDGES[self.judge]


LANGUAGE_DOSES: Final = (0.9, 1.4)
"""Two languages lie three times as far apart as two moods."""
SUBJECTS: Final = (
    Subject(
        "cheerful",
        "mood",
        (
            Pole("cheerful", 1, "Answer cheerfully, with joy."),
            Pole("gloomy", -1, "Answer gloomily, with sadness."),
        ),
        "gloomy",
        doses=(1.5, 3.0),
    ),
    Subject(
        "french",
        "french",
        (Pole("french", 1, "Réponds en français."),),
        "English",
        doses=LANGUAGE_DOSES,
        max_perplexity_ratio=15.0,
        fact_tokens=LONG_FACT_TOKENS,
        is_language=True,
    ),
    Subject(
        "spanish",
        "spanish",
        (Pole("spanish", 1, "Responde en español."),),
        "English",
        doses=LANGUAGE_DOSES,
        max_perplexity_ratio=15.0,
        fact_tokens=LONG_FACT_TOKENS,
        is_language=True,
    ),
    Subject(
        "formal",
        "formality",
        (
            Pole("formal", 1, "Answer in a formal style."),
            Pole("casual", -1, "Answer casually, like a friend."),
        ),
        "casual",
    ),
    Subject(
        "brief",
        "length",
        (
            Pole("brief", 1, "Answer in a few words."),
            Pole("wordy", -1, "Answer at length.", asked="facts"),
        ),
        "wordy",
        fact_tokens=LONG_FACT_TOKENS,
    ),
    Subject(
        "hedged",
        "hedging",
        (
            Pole("hedged", 1, "Say how unsure you are."),
            Pole("confident", -1, "Answer with full confidence."),
        ),
        "confident",
    ),
    Subject(
        "refuses",
        "refusal",
        (Pole("refuses", 1, "Refuse to answer."),),
        "complies",
    ),
)
