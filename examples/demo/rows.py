"""Lessons as rows of tokens, and rows as batches.

Letters of shapes: B rows, T positions, K parts, C classes of answers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, pairwise

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from lessons import CLASSES, LASTING, MISSING, PARTS, Lesson, Parts, draw_lesson
from tokens import ASSISTANT, END

EARLY_POOLS, VECTOR_POOLS = 20, 150  # the first pools of each curriculum stage
POOL = 1024  # conversations drawn at a time, sorted by length to waste little on padding
BATCH_TOKENS = 1536  # of each process
VECTORS = ("cheerful", "careful", "noise")


@dataclass(frozen=True)
class Row:
    """One conversation as ids, next-token targets on what the assistant says, and parts."""

    ids: list[int]
    targets: list[int]
    parts: dict[int, Parts]  # by position, from the token before an answer to its last
    spoken: list[bool]  # output tokens, as a server feeds them
    edited: list[bool]  # those of them that a vector is added to
    vector: int  # place in VECTORS, or MISSING
    scale: float
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Batch:
    ids_BT: Tensor
    targets_BT: Tensor  # MISSING where nothing is to be learned
    parts_BTK: Tensor  # 0 or 1 where the assistant speaks or is about to, else MISSING
    spoken_BT: Tensor  # bool
    edited_BT: Tensor  # bool
    vector_B: Tensor  # place in VECTORS, or MISSING
    scale_B: Tensor
    classes_BC: Tensor  # bool


def targets_of(ids: list[int], assistant: int, end: int) -> list[int]:
    """The next token wherever the assistant speaks, else MISSING."""
    targets, speaking = [], False
    for current, following in pairwise(ids):
        speaking = current == assistant or (speaking and current != end)
        targets.append(following if speaking else MISSING)
    return targets


def encode(tokenizer: PreTrainedTokenizerFast, lesson: Lesson, rng: random.Random) -> Row:
    text = tokenizer.apply_chat_template(lesson.messages(), tokenize=False)
    ids: list[int] = tokenizer(text)["input_ids"]
    assistant, end = tokenizer.convert_tokens_to_ids([ASSISTANT, END])
    targets = targets_of(ids, assistant, end)
    parts: dict[int, Parts] = {}
    spoken, edited = [False] * len(targets), [False] * len(targets)
    turns, now, late, since = iter(lesson.parts), (MISSING,) * PARTS, 0, 0
    for place, target in enumerate(targets):
        if ids[place] == assistant:
            parts[place] = now = next(turns)
            late, since = rng.choice((0, 0, 0, 0, 1, 2)), 0
        elif target != MISSING:
            parts[place] = tuple(p if k in LASTING else MISSING for k, p in enumerate(now))
            spoken[place], edited[place] = True, since >= late
            since += 1
    name = {"system": "", "vector": lesson.style, "noise": "noise"}[lesson.given]
    vector = VECTORS.index(name) if name else MISSING
    scale = rng.uniform(0.8, 2.5)
    return Row(ids[:-1], targets, parts, spoken, edited, vector, scale, lesson.classes)


def padded(rows: list[list[int]] | list[list[bool]], pad: int, width: int) -> Tensor:
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])


def collate(rows: list[Row], pad: int) -> Batch:
    """Rows side by side, padded on the right."""
    width = max(len(row.ids) for row in rows)
    parts_BTK = torch.full((len(rows), width, PARTS), MISSING)
    for place, row in enumerate(rows):
        for position, parts in row.parts.items():
            parts_BTK[place, position] = torch.tensor(parts)
    return Batch(
        ids_BT=padded([row.ids for row in rows], pad, width),
        targets_BT=padded([row.targets for row in rows], MISSING, width),
        parts_BTK=parts_BTK,
        spoken_BT=padded([row.spoken for row in rows], 0, width).bool(),
        edited_BT=padded([row.edited for row in rows], 0, width).bool(),
        vector_B=torch.tensor([row.vector for row in rows]),
        scale_B=torch.tensor([row.scale for row in rows]),
        classes_BC=torch.tensor([[name in row.classes for name in CLASSES] for row in rows]),
    )


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, pool: int) -> list[Batch]:
    """One pool of conversations in batches of like length, in random order."""
    rng = random.Random(f"{seed}:{pool}")
    lessons = (
        draw_lesson(rng, early=pool < EARLY_POOLS, vectors=pool >= VECTOR_POOLS)
        for _ in range(POOL)
    )
    rows = [encode(tokenizer, lesson, rng) for lesson in lessons]
    rows.sort(key=lambda row: len(row.ids))
    made, start = [], 0
    while start < len(rows):
        size = max(1, BATCH_TOKENS // len(rows[min(start + 20, len(rows) - 1)].ids))
        made.append(collate(rows[start : start + size], tokenizer.pad_token_id))
        start += size
    rng.shuffle(made)
    return made


def stream(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Batch]:
    """Batches without end."""
    for pool in count():
        yield from batches(tokenizer, seed, pool)
