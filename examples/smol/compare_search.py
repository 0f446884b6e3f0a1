"""Does the staged search of `vector fit` choose what the full sweep chooses?

    python examples/smol/compare_search.py --out build/search.json
    python examples/smol/compare_search.py --out build/search.json --vectors cheerful --pairs 12

Fits vectors of the real model from the first pairs of its files, once by each search, with equal
splits, and compares layer, strength and the effect on the test pairs, which neither has seen. The
file is written after each vector; one that is in it already is not fitted again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pilothouse.demo.smol import smol_folder
from pilothouse.progress import progress
from pilothouse.training import fit_vector
from pilothouse.training.fit_options import SearchKind

HERE = Path(__file__).resolve().parent
VECTORS = ("cheerful", "formal", "french")
PAIRS = 24
SEARCHES: tuple[SearchKind, ...] = ("staged", "full")


def main(words: Sequence[str]) -> int:
    """Fit, compare, print and write; 1 where a staged choice is outside the sweep's interval."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file of all figures")
    parser.add_argument("--vectors", nargs="+", default=list(VECTORS), metavar="NAME")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="of each file, the first ones")
    args = parser.parse_args(words)
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    model = smol_folder(print)
    for name in args.vectors:
        if name not in found:
            found[name] = compared(name, model, args.pairs)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(line(name, found[name]), flush=True)
    return int(not all(each["within"] for each in found.values()))


def compared(name: str, model: Path, num_pairs: int) -> dict[str, Any]:
    """Fit one vector by both searches."""
    lines = (HERE / "pairs" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    by_search: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / f"{name}.jsonl"
        pairs.write_text("\n".join(lines[:num_pairs]) + "\n", encoding="utf-8")
        for search in SEARCHES:
            began = time.monotonic()
            # Of the sweep, controls take no part in the choice; one of each kind is the least.
            controls = {"controls": 1} if search == "full" else {}
            with progress() as phase:
                fitted = fit_vector(
                    pairs,
                    model=str(model),
                    name=name,
                    search=search,
                    phase=phase,
                    **controls,
                )
            report = fitted.report
            by_search[search] = {
                "layer": report.chosen_layer,
                "scale": report.chosen_scale,
                "effect": report.test.effect.model_dump(),
                "cells": len(report.sweep),
                "seconds": round(time.monotonic() - began, 1),
            }
    staged, full = (by_search[each]["effect"] for each in SEARCHES)
    same = all(by_search["staged"][key] == by_search["full"][key] for key in ("layer", "scale"))
    within = same or full["low"] <= staged["estimate"]
    return by_search | {"pairs": num_pairs, "same": same, "within": within}


def line(name: str, found: dict[str, Any]) -> str:
    """One line of the comparison."""
    parts = []
    for search in SEARCHES:
        each = found[search]
        effect = each["effect"]
        parts.append(
            f"{search} layer {each['layer']} at {each['scale']:g}, effect "
            f"{effect['estimate']:+.3f} [{effect['low']:+.3f}, {effect['high']:+.3f}], "
            f"{each['seconds']:.0f} s"
        )
    standing = "the same" if found["same"] else "within" if found["within"] else "worse"
    return f"{name}: {'; '.join(parts)}: {standing}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
