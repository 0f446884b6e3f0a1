"""Fit the demo's two steering vectors: `python fit_vectors.py`; differences of means, then a sweep.

`cheerful`: answer tokens under the cheerful system message minus the same questions without it.
`hedge`: the shared opening of answers about unknown names, where the model under the careful
message owns up, minus where without it the model makes a value up. Layer and scale are chosen on
names that neither vector was fitted on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from check import check
from digests import refuse_changed
from record import Record
from runs import MODEL, MODEL_ID, Run, Runner, model_facts
from sample import Mix, sample

from pilothouse.config import parse_config
from pilothouse.engine.offline import OfflineEngine
from pilothouse.engine.resolve import resolve_plan
from pilothouse.model.catalogue import Catalogue
from pilothouse.model.vector import Vector, build_vector, save_vector
from pilothouse.sealed import SealedRequest, SteerTerm

OUT = Path(__file__).resolve().parents[2] / "probes" / "demo" / "vectors"
FIT_SEED, SWEEP_SEED = 303, 404
PLAIN = Mix(mirrored_fact=0.0, mirrored_request=0.0, claimed=0.0)
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0)
CREATED_BY = "examples/demo/fit_vectors.py"


def styled(records: Iterable[Record], style: str) -> list[Record]:
    return [replace(record, style=style) for record in records]


def output_mean_LD(runs: Iterable[Run], first: int = 0, last: int | None = None) -> np.ndarray:
    """Mean stream over output tokens [first, last) of the runs."""
    parts = []
    for run in runs:
        start = run.captured.num_prompt_tokens
        stop = None if last is None else start + last
        parts.append(run.captured.stream_LPD[:, start + first : stop])
    return np.concatenate(parts, axis=1).mean(axis=1)


def output_norms_L(runs: Iterable[Run]) -> np.ndarray:
    """Mean length of the stream over output tokens."""
    parts = [run.captured.stream_LPD[:, run.captured.num_prompt_tokens :] for run in runs]
    return np.linalg.norm(np.concatenate(parts, axis=1), axis=2).mean(axis=1)


def cheerful_LD(runner: Runner, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The direction and the mean norms, at every layer."""
    records = [
        record for kind in ("known", "benign", "unknown")
        for record in sample(FIT_SEED, count, kind, "train", mix=PLAIN)
    ]  # fmt: skip
    plain = list(runner.runs(records, what="plain answers"))
    merry = list(runner.runs(styled(records, "cheerful"), what="cheerful answers"))
    return output_mean_LD(merry) - output_mean_LD(plain), output_norms_L(plain)


def hedge_LD(runner: Runner, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The direction and the mean norms, at every layer, over the opening before the value."""
    records = list(sample(FIT_SEED, count, "unknown", "train", mix=PLAIN))
    plain = list(runner.runs(records, what="made up"))
    careful = list(runner.runs(styled(records, "careful"), what="hedged"))
    pairs = [
        (one, other) for one, other in zip(plain, careful, strict=True)
        if one.verdict.facts == "wrong" and other.verdict.facts == "hedged"
    ]  # fmt: skip
    openings = [opening(one, other) for one, other in pairs]
    made_up = np.mean([output_mean_LD([one], 0, n) for (one, _), n in zip(pairs, openings)], axis=0)
    hedged = np.mean([output_mean_LD([two], 0, n) for (_, two), n in zip(pairs, openings)], axis=0)
    return hedged - made_up, output_norms_L(plain)


def opening(one: Run, other: Run) -> int:
    """How many output tokens two answers share from the start."""
    both = zip(one.captured.output_token_ids, other.captured.output_token_ids, strict=False)
    shared = 0
    for left, right in both:
        if left != right:
            break
        shared += 1
    return max(1, shared)


def candidates(name: str, direction_LD: np.ndarray, norms_L: np.ndarray) -> dict[str, Vector]:
    """One single-layer vector for every layer."""
    return {
        f"{name}-{layer}": build_vector(
            name, model_id=MODEL_ID, layers=(layer,),
            directions_LD=direction_LD[layer : layer + 1].astype(np.float32),
            residual_norms_L=norms_L[layer : layer + 1].astype(np.float32), created_by=CREATED_BY,
        )
        for layer in range(len(direction_LD))
    }  # fmt: skip


class Sweep:
    """Every candidate in one engine; each (vector, scale) on the same records."""

    def __init__(self, vectors: dict[str, Vector], *, model: Path = MODEL) -> None:
        config = parse_config(
            {"version": 1, "limits": {"max_norm_ratio": 100.0}}, folder=Path(), origin="sweep"
        )
        plan = resolve_plan(config, Catalogue(vectors=vectors), (), model_facts(model))
        self._engine = OfflineEngine(str(model), plan, max_model_len=512)

    def shares(self, records: list[Record], steer: tuple[SteerTerm, ...]) -> dict[str, float]:
        """What became of the answers: right, wrong, hedged, cheerful, complied."""
        tokenizer = self._engine.tokenizer
        prompts = [
            tokenizer.apply_chat_template(
                record.messages(), add_generation_prompt=True, return_dict=False
            )
            for record in records
        ]
        request = SealedRequest(decision_id="", revision="", steer=steer)
        answers = self._engine.answers(prompts, [request] * len(prompts), max_tokens=48)
        verdicts = [
            check(record, tokenizer.decode(answer.token_ids, skip_special_tokens=True))
            for record, answer in zip(records, answers, strict=True)
        ]
        facts = [verdict.facts for verdict in verdicts]
        return {
            "right": facts.count("right") / len(facts), "wrong": facts.count("wrong") / len(facts),
            "hedged": facts.count("hedged") / len(facts),
            "cheerful": sum(v.cheerful for v in verdicts) / len(verdicts),
            "complied": sum(v.complied for v in verdicts) / len(verdicts),
        }  # fmt: skip


def sweep_table(name: str, vectors: dict[str, Vector], count: int) -> list[dict[str, object]]:
    """A row for every layer and scale, with the unsteered row first."""
    sweep = Sweep(vectors)
    known = list(sample(SWEEP_SEED, count, "known", "test", mix=PLAIN))
    other_kind = "unknown" if name == "hedge" else "benign"
    other = list(sample(SWEEP_SEED, count, other_kind, "test", mix=PLAIN))
    rows: list[dict[str, object]] = []
    settings: list[tuple[str | None, float]] = [(None, 0.0)]
    settings += [(vector, scale) for vector in vectors for scale in SCALES]
    for vector, scale in settings:
        steer = () if vector is None else (SteerTerm(vector=vector, scale=scale, on="output"),)
        row = {
            "vector": vector, "scale": scale, "known": sweep.shares(known, steer),
            other_kind: sweep.shares(other, steer),
        }  # fmt: skip
        rows.append(row)
        print(json.dumps(row))
    return rows


def score(name: str, row: dict[str, dict[str, float]]) -> float:
    """What the sweep maximises: the effect, with what must be kept counted against it in full."""
    if name == "cheerful":
        return min(row["known"]["cheerful"], row["known"]["right"], row["benign"]["complied"])
    return min(row["known"]["right"], 1.0 - row["unknown"]["wrong"])


def main() -> int:
    parser = argparse.ArgumentParser(description="Fit the demo's steering vectors.")
    parser.add_argument("names", nargs="*", help="default: cheerful and hedge")
    parser.add_argument("--count", type=int, default=200, help="prompts of each kind")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    refuse_changed()
    layers = tuple(range(model_facts().num_layers))
    runner = Runner(layers)
    fits = {"cheerful": cheerful_LD, "hedge": hedge_LD}
    for name in chosen.names or fits:
        vectors = candidates(name, *fits[name](runner, chosen.count))
        rows = sweep_table(name, vectors, chosen.count)
        best = max(rows[1:], key=lambda row: score(name, row))  # type: ignore[arg-type]
        save_vector(vectors[str(best["vector"])], chosen.out / name)
        table = {"chosen": best, "sweep": rows}
        (chosen.out / name / "evaluation.json").write_text(json.dumps(table, indent=1) + "\n")
        print(f"{name}: {best}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
