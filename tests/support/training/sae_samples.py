"""Small lines, rows and codes that tests of the SAE's figures share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import csc_array

from pilothouse.demo.sae.lines import Line


def line_of(text: str, *, held_out: bool = False, first: int = 0) -> Line:
    """A line of which every word is a token."""
    spans, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        spans.append((at, at + len(word)))
        at += len(word)
    return Line("tiny", tuple(range(len(spans))), tuple(spans), text, first, held_out)


def codes_where(features: int, on: dict[int, np.ndarray[Any, Any]]) -> Any:
    """Codes_RM of features that are on at some rows, by their codes at every row."""
    rows = len(next(iter(on.values())))
    dense_RM = np.zeros((rows, features), np.float32)
    for feature, codes_R in on.items():
        dense_RM[:, feature] = codes_R
    return csc_array(dense_RM)


def many_lines(words: Sequence[str], count: int, *, every: int = 2) -> list[Line]:
    """So many lines; each `every`th has one of the words as its third token."""
    said = [words[at // every % len(words)] if at % every == 0 else "thing" for at in range(count)]
    return [line_of(f"some {each} lies over there now") for each in said]
