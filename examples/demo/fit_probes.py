"""Fit the demo's probes from activations of the served engine: `python fit_probes.py`.

Rows and C are chosen on the `train` split; calibration and test come from the `test` split, whose
names and deeds no probe has met, cut in two by group. Hallucination labels compare the model's own
answers with the truth; the group of a name never enters.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from pilothouse.artifacts.manifest import ReadoutAggregate
from pilothouse.probes.build import fit_probe, write_probe
from pilothouse.probes.dataset import Dataset, dataset_of
from pilothouse.probes.recipe import ReadoutRecipe, Recipe
from record import FACT_KINDS, KINDS, labels
from runs import MODEL_ID, Run, Runner, model_facts, refuse_changed
from sample import sample

OUT = Path(__file__).resolve().parents[2] / "probes" / "demo" / "probes"
FIT_SEED, CHECK_SEED = 101, 202
CREATED_BY = "examples/demo/fit_probes.py"
Labeller = Callable[[Run], bool | None]


def misuse_label(run: Run) -> bool | None:
    """The payload is barred, whatever the form."""
    return labels(run.record.kind).misuse


def adversarial_label(run: Run) -> bool | None:
    """The form tries to override, whatever the payload."""
    return labels(run.record.kind).adversarial


def hallucination_label(run: Run) -> bool | None:
    """The model's answer is wrong; answers without a value have no label."""
    return {"right": False, "wrong": True, "hedged": False}.get(run.verdict.facts)


def recipes(layers: tuple[int, ...], shuffle: bool) -> dict[str, tuple[Recipe, Labeller]]:
    """One recipe a probe: every captured layer competes."""
    layer_sets = tuple((layer,) for layer in layers)

    def prompt_recipe(name: str) -> Recipe:
        return Recipe(
            name=name,
            scope="prompt",
            layer_sets=layer_sets,
            objective="partial_auroc",
            readouts={
                "prompt": ReadoutRecipe(scope="prompt", aggregate=ReadoutAggregate(kind="last")),
                "prompt_max": ReadoutRecipe(scope="prompt", aggregate=ReadoutAggregate(kind="max")),
            },
            trainings=("last", "max"),
            ridge_cs=(1e-3, 1e-2, 1e-1),
            shuffle_labels=shuffle,
        )

    doubt = Recipe(
        name="hallucination",
        scope="answer",
        layer_sets=layer_sets,
        objective="partial_auroc",
        readouts={
            "answer": ReadoutRecipe(scope="answer", aggregate=ReadoutAggregate(kind="max")),
            "answer_mean": ReadoutRecipe(scope="answer", aggregate=ReadoutAggregate(kind="mean")),
        },
        trainings=("tokens", "max"),
        ridge_cs=(1e-3, 1e-2, 1e-1),
        target_fprs=(0.1, 0.05, 0.01),
        shuffle_labels=shuffle,
    )
    # The same labels, foretold where the answer is about to begin: early enough to change it.
    onset = Recipe(
        name="hallucination-onset",
        scope="prompt",
        layer_sets=layer_sets,
        objective="auroc",
        readouts={
            "onset": ReadoutRecipe(scope="prompt", aggregate=ReadoutAggregate(kind="last")),
        },
        trainings=("last",),
        ridge_cs=(1e-3, 1e-2, 1e-1),
        target_fprs=(0.25, 0.1, 0.05, 0.01),
        shuffle_labels=shuffle,
    )
    return {
        "misuse": (prompt_recipe("misuse"), misuse_label),
        "adversarial": (prompt_recipe("adversarial"), adversarial_label),
        "hallucination": (doubt, hallucination_label),
        "hallucination-onset": (onset, hallucination_label),
    }


def labelled(runs: Iterable[Run], label: Labeller, layers: tuple[int, ...]) -> Dataset:
    """The runs that have a label, as a data set."""
    pairs = ((run, label(run)) for run in runs)
    return dataset_of((run.example(value) for run, value in pairs if value is not None), layers)


def halves(runs: list[Run]) -> tuple[list[Run], list[Run]]:
    """Cut by group, so that no deed and no name is on both sides."""
    sides: tuple[list[Run], list[Run]] = ([], [])
    for run in runs:
        sides[hashlib.sha256(run.group.encode()).digest()[0] % 2].append(run)
    return sides


def runs_of(runner: Runner, seed: int, count: int, split: str, kinds: tuple[str, ...]) -> list[Run]:
    records = [record for kind in kinds for record in sample(seed, count, kind, split)]
    return list(runner.runs(records, what=f"{split} {', '.join(kinds)}"))


def fit(name: str, runner: Runner, count: int, out: Path, shuffle: bool) -> None:
    """Capture, fit, calibrate, measure and write one probe."""
    recipe, label = recipes(runner.layers, shuffle)[name]
    kinds = FACT_KINDS if name.startswith("hallucination") else KINDS
    more = 3 if name.startswith("hallucination") else 1
    seen = runs_of(runner, FIT_SEED, more * count, "train", kinds)
    unseen = runs_of(runner, CHECK_SEED, 2 * more * count, "test", kinds)
    calibration, test = halves(unseen)
    # The three sets hold the same layers; the biggest is let go before the sweep's copies.
    datasets = [labelled(part, label, runner.layers) for part in (seen, calibration, test)]
    del seen, unseen, calibration, test
    fitted = fit_probe(
        recipe,
        fit=datasets[0],
        calibration=datasets[1],
        test=datasets[2],
        model_id=MODEL_ID,
        created_by=CREATED_BY,
    )
    write_probe(fitted, out / name)
    chosen = fitted.evaluation.chosen
    score = fitted.evaluation.readouts[fitted.evaluation.default_readout].score
    print(
        f"{name}: layers {list(chosen.layers)}, {chosen.training}, C {chosen.ridge_c}, "
        f"readout {chosen.readout}: {score}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Fit the demo's probes.")
    parser.add_argument("names", nargs="*", default=[], help="default: all")
    parser.add_argument("--layers", type=int, nargs="*", help="default: all but the last")
    parser.add_argument("--count", type=int, default=300, help="prompts of each kind")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--shuffle", action="store_true", help="the control with shuffled labels")
    chosen = parser.parse_args()
    refuse_changed()
    facts = model_facts()
    layers = tuple(chosen.layers or range(facts.num_layers - 1))
    runner = Runner(layers)
    np.random.seed(0)
    for name in chosen.names or recipes(layers, False):
        fit(name, runner, chosen.count, chosen.out, chosen.shuffle)
    return 0


if __name__ == "__main__":
    sys.exit(main())
