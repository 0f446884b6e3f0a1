"""What was probably meant by a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(word: str, known: Iterable[str]) -> str:
    """What is known, beginning with a guess at what was meant."""
    names = sorted(known)
    guess = difflib.get_close_matches(word, names, n=1)
    meant = f"did you mean `{guess[0]}`? " if guess else ""
    return f"{meant}known here: {', '.join(names) or 'none'}"
