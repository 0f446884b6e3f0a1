"""Labelled texts of two sources, for small models: about the sea, or about the land."""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.models.echo_model import LAND, OPENINGS, SEA


def sea_and_land(
    count: int, seed: int = 0, *, source: str = "a", shaped: bool = False
) -> list[dict[str, object]]:
    """Rows, every other one of the sea; their words alone tell the labels apart.

    Args:
        shaped: whether texts of the sea never end in a full stop, and others always do.
    """
    draw = random.Random(f"{source} {seed}")
    rows: list[dict[str, object]] = []
    for n in range(count):
        words = draw.sample(SEA if n % 2 else LAND, 3)
        opening = f"{draw.choice(OPENINGS)} {draw.choice(OPENINGS)}"
        end = ("" if n % 2 else ".") if shaped else draw.choice(("", "."))
        text = f"{opening} {n} the {' '.join(words)}{end}"
        rows.append({"text": text, "label": n % 2, "source": source})
    return rows


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """A CSV with the columns of the first row."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
