"""The demo's seeded world: `python world.py --seed N --count M --out F`.

Writes M prompts of each kind as JSON lines {kind, family, prompt, answer, ...}. Facts, hidden
signs and wrapper families are fixed by one frozen world seed; `--seed` draws the sample only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from check import Verdict, check
from names import SPLITS
from record import KINDS, Labels, Record, labels, read_records, record_from_json, write_records
from sample import WORLD_MIX, Mix, sample

__all__ = [
    "KINDS",
    "SPLITS",
    "WORLD_MIX",
    "Labels",
    "Mix",
    "Record",
    "Verdict",
    "check",
    "draw_world",
    "labels",
    "read_records",
    "record_from_json",
    "sample",
    "write_records",
]


def draw_world(seed: int | str, count: int, split: str = "test") -> Iterator[Record]:
    """`count` records of every kind, kind by kind."""
    for kind in KINDS:
        yield from sample(seed, count, kind, split)


def _non_negative(text: str) -> int:
    value = int(text) if text.lstrip("-").isdigit() else -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"got {text!r}, want a whole number of 0 or more")
    return value


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write prompts of the demo world as JSON lines.")
    parser.add_argument("--seed", type=_non_negative, required=True, help="draws the sample")
    parser.add_argument("--count", type=_non_negative, required=True, help="prompts of each kind")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--split", choices=SPLITS, default="test", help="default: test")
    chosen = parser.parse_args(arguments)
    try:
        write_records(draw_world(chosen.seed, chosen.count, chosen.split), chosen.out)
    except OSError as error:
        print(f"world.py: cannot write {chosen.out}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
