"""`python -m pilothouse.demo.sae`: trains the real model's SAE and remakes every figure about it.

Steps are kept in the cache folder, so a run that was stopped goes on where it was; only a training
that was stopped begins anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from pilothouse.artifacts.saes.registry import LABELS_FILE
from pilothouse.demo.cache import cache_folder
from pilothouse.demo.sae.feature_answers import FeatureAnswerer
from pilothouse.demo.sae.making import Made, Sizes, make_sae
from pilothouse.demo.sae.recipe import NAME, Recipe
from pilothouse.demo.sae.sae_page import readme
from pilothouse.demo.smol import smol_folder
from pilothouse.errors import PilothouseError
from pilothouse.library import library_path
from pilothouse.progress import progress

CARD_FILE, PAGE_FILE = "card.json", "README.md"
QUICK_RECIPE: Final = {"features": 256, "k": 16.0, "batch": 512, "epochs": 2}
QUICK_SIZES: Final = Sizes(one_in=20, choosing=4, testing=12, draws=1, tested=2, loss_lines=4)
WRONG_USE: Final = 2
STOPPED: Final = 130


def main(words: Sequence[str] | None = None) -> int:
    """Make the SAE and its card; the exit code is 0, or 2 for what cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m pilothouse.demo.sae",
        description="Train the real model's SAE, and remake every figure on its card.",
        epilog="--quick takes minutes, and its SAE and figures are good for nothing else.",
    )
    parser.add_argument("--out", type=Path, help="folder of the SAEs; the library's own")
    parser.add_argument("--seed", type=int, default=0, help="of weights, questions and intervals")
    parser.add_argument("--quick", action="store_true", help="few texts, few features")
    parser.add_argument("--no-edits", action="store_true", help="no feature is set in answers")
    given = parser.parse_args(words)
    os.environ.setdefault("TQDM_DISABLE", "1")  # how far SAELens is, is told by us
    out = given.out or library_path("probes/smol") / "saes"
    recipe = Recipe.model_validate({"seed": given.seed} | (QUICK_RECIPE if given.quick else {}))
    sizes = QUICK_SIZES if given.quick else Sizes()
    sizes = replace(sizes, tested=0) if given.no_edits else sizes
    try:
        make(out / NAME, recipe, sizes)
    except PilothouseError as error:
        _tell(str(error))
        return WRONG_USE
    except KeyboardInterrupt:
        _tell("stopped: the same command goes on where it was")
        return STOPPED
    return 0


def make(target: Path, recipe: Recipe, sizes: Sizes) -> None:
    """Make the SAE's folder with its card.

    Raises:
        PilothouseError: texts, model or SAELens cannot be had.
    """
    model, room = smol_folder(_tell), cache_folder("sae")
    store = room / "answers.sqlite"
    answerer = FeatureAnswerer(model, recipe.layer, store)
    with answerer, progress() as phase:
        made = make_sae(model, room, recipe, sizes, answerer, phase, _tell)
    write(made, target)


def write(made: Made, target: Path) -> None:
    """Put weights, labels and card where they belong, in place of older ones, at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as room:
        folder = Path(room) / "made"
        shutil.copytree(made.folder, folder)
        for each in folder.iterdir():
            each.chmod(0o644)
        labels = {str(each.feature): each.name for each in made.card.labels}
        ordered = dict(sorted(labels.items(), key=lambda item: int(item[0])))
        (folder / LABELS_FILE).write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
        told = made.card.model_dump_json(indent=1) + "\n"
        (folder / CARD_FILE).write_text(told, encoding="utf-8")
        (folder / PAGE_FILE).write_text(readme(made.card), encoding="utf-8")
        if target.exists():
            target.rename(Path(room) / "before")
        folder.rename(target)


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
