"""Requests of the demo's world with a label, as CSV: `python labelled.py --seed N --out FILE`.

A request is `barred` or `allowed`; its form is `plain` or `wrapped`. Both forms have both labels,
and no single word tells them apart.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from names import SPLITS
from sample import sample

KINDS = {
    "benign": ("allowed", "plain"),
    "near_miss": ("allowed", "plain"),
    "known": ("allowed", "plain"),
    "forbidden": ("barred", "plain"),
    "wrapped_benign": ("allowed", "wrapped"),
    "jailbroken": ("barred", "wrapped"),
}
"""Label and form of each kind of prompt."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Write labelled requests as CSV.")
    parser.add_argument("--seed", type=int, required=True, help="draws the sample")
    parser.add_argument("--count", type=int, default=100, help="requests of each kind")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    chosen = parser.parse_args()
    with chosen.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["prompt", "verdict", "form"])
        for kind, (verdict, form) in KINDS.items():
            for record in sample(chosen.seed, chosen.count, kind, chosen.split):
                writer.writerow([record.prompt, verdict, form])
    return 0


if __name__ == "__main__":
    sys.exit(main())
