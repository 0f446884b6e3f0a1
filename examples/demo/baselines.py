"""What words and length alone tell: TF-IDF and length baselines, stored as baselines.json.

In distribution: fit on `train`, score on `test`, all kinds. Left out: fit without one wrapper
family, score only prompts that contain it (misuse: barred against allowed deeds; adversarial:
override against mirror). The held-out families are met by no fit at all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from intervals import auroc
from record import KINDS, REQUEST_KINDS, Record, labels
from sample import sample
from wrappers import FAMILIES, INJECTIONS, families_of

IN_DISTRIBUTION_LIMIT = 0.90
LEFT_OUT_LIMIT = 0.75
Signal = Callable[[Record], bool]
SIGNALS: dict[str, Signal] = {
    "misuse": lambda record: labels(record.kind).misuse,
    "adversarial": lambda record: labels(record.kind).adversarial,
}


def draw(seed: str, count: int, split: str, **kwargs: Any) -> list[Record]:
    return [r for kind in KINDS for r in sample(seed, count, kind, split, **kwargs)]


def tfidf_scores(fit: list[Record], score: list[Record], signal: Signal) -> np.ndarray:
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b"),
        LogisticRegression(C=10.0, max_iter=2000),
    )
    model.fit([r.prompt for r in fit], [signal(r) for r in fit])
    scores: np.ndarray = model.decision_function([r.prompt for r in score])
    return scores


def length_scores(fit: list[Record], score: list[Record], signal: Signal) -> np.ndarray:
    def features(records: Iterable[Record]) -> np.ndarray:
        rows = [(len(r.prompt), len(r.prompt.split())) for r in records]
        return np.array([(c, c * c / 100, w, w * w / 10) for c, w in rows], dtype=float) / 100

    model = LogisticRegression(max_iter=2000).fit(features(fit), [signal(r) for r in fit])
    scores: np.ndarray = model.decision_function(features(score))
    return scores


def compare(fit: list[Record], score: list[Record], signal: Signal) -> dict[str, Any]:
    truth = [signal(record) for record in score]
    return {
        "tfidf": auroc(truth, tfidf_scores(fit, score, signal)),
        "length": auroc(truth, length_scores(fit, score, signal)),
    }


def left_out(name: str, kinds: tuple[str, ...], count: int, signal: Signal) -> dict[str, Any]:
    """Fit without the family, score the prompts that contain it."""
    family = next(f for f in FAMILIES + INJECTIONS if f.name == name)
    others = tuple(f for f in families_of("train") if f.name != name)
    other_injections = tuple(f for f in families_of("train", INJECTIONS) if f.name != name)
    fit = draw("base-fit", count, "train", families=others, injections=other_injections)
    only = {"injections": (family,)} if family in INJECTIONS else {"families": (family,)}
    drawn = [r for k in kinds for r in sample("base-score", count, k, family_split(family), **only)]
    return compare(fit, [r for r in drawn if r.family == name], signal)


def family_split(family: Any) -> str:
    return "heldout" if family.split == "heldout" else "test"


def measure(count: int) -> dict[str, Any]:
    fit, score = draw("base-fit", count, "train"), draw("base-score", count, "test")
    requests_fit = [r for r in fit if r.kind in REQUEST_KINDS and r.deed]
    requests_score = [r for r in score if r.kind in REQUEST_KINDS and r.deed]
    result: dict[str, Any] = {"count_per_kind": count}
    for name, signal in SIGNALS.items():
        result[name] = {
            "in_distribution": compare(fit, score, signal),
            "requests_only": compare(requests_fit, requests_score, signal),
            "left_out": {f.name: left_out(f.name, REQUEST_KINDS, count, signal) for f in FAMILIES},
        }
    for family in INJECTIONS:
        pages = left_out(family.name, ("injected", "clean_document"), count, SIGNALS["adversarial"])
        result["adversarial"]["left_out"][family.name] = pages
    return result


def too_easy(result: dict[str, Any]) -> list[str]:
    """The places where TF-IDF exceeds its limit."""
    found = []
    for name in SIGNALS:
        figures = result[name]
        for part in ("in_distribution", "requests_only"):
            if figures[part]["tfidf"]["auroc"] > IN_DISTRIBUTION_LIMIT:
                found.append(f"{name} {part}")
        for family, cell in figures["left_out"].items():
            if cell["tfidf"]["auroc"] > LEFT_OUT_LIMIT:
                found.append(f"{name} left out {family}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="TF-IDF and length baselines of the demo world.")
    parser.add_argument("--count", type=int, default=600, help="prompts of each kind")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("baselines.json"))
    chosen = parser.parse_args()
    result = measure(chosen.count)
    result["too_easy"] = too_easy(result)
    chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 1 if result["too_easy"] else 0


if __name__ == "__main__":
    sys.exit(main())
