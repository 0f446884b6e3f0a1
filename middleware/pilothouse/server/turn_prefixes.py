"""Where a text could have ended: a probe of a turn's end sees little of what stands far before it.

A grammar can write a question, leave the model room to answer, and go on with anything. Read at
its end such an answer is about the last thing in it; read at each place where it could have ended,
it is about each.
"""

from __future__ import annotations

import re
from typing import Final

MAX_PREFIXES: Final = 48
MAX_WORDS: Final = 12
"""A stretch without the end of a sentence counts as ended after so many words."""

MAX_LETTERS: Final = 16
"""What is written without spaces counts as words of so many letters."""

_FULL_STOPS: Final = "\u3002\uff01\uff1f\uff1b"
"""Those of scripts that leave no space behind them."""
_WORD: Final = re.compile(
    rf"(?:[^\s{_FULL_STOPS}]{{1,{MAX_LETTERS}}}[{_FULL_STOPS}]*|[{_FULL_STOPS}]+)\s*"
)
_ENDS: Final = re.compile(rf"(?:[.?!;][\"'}}\]),]*|[{_FULL_STOPS}])\s*$|\n\s*$")


def prefixes(text: str) -> tuple[str, ...]:
    """The text up to each place where it could have ended, but for the whole of it.

    There are at most `MAX_PREFIXES`; of more, as many are taken at even distances.
    """
    ends: list[int] = []
    num_words = 0
    for word in _WORD.finditer(text):
        num_words += 1
        if _ENDS.search(word.group()) or num_words == MAX_WORDS:
            ends.append(word.end())
            num_words = 0
    inner = [end for end in ends if text[end:].strip()]
    if len(inner) > MAX_PREFIXES:
        inner = [inner[index * len(inner) // MAX_PREFIXES] for index in range(MAX_PREFIXES)]
    return tuple(text[:end].rstrip() for end in inner)
