"""Fit the demo's two steering vectors: `python fit_vectors.py`; by gradient, then a sweep.

A vector is added to the stream after one block, at output positions alone, and trained so that the
model, asked plainly, gives the wanted answer: `cheerful`, its own plain reply in the cheerful
style; `hedge`, that it does not know, about names that no one knows. Nothing else is trained.
Layer and scale are chosen through the served engine, on names that no vector was fitted on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import torch
from torch.nn.functional import cross_entropy

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from check import check
from facts import hedged
from pilothouse.artifacts.catalog import Source
from pilothouse.artifacts.transform import save_transform
from pilothouse.artifacts.vector import Vector, build_vector, save_vector
from pilothouse.config import parse_config
from pilothouse.term import SteerTerm
from pilothouse.types import Operator
from record import Record
from runs import MODEL, MODEL_ID, refuse_changed
from sample import Mix, sample
from served import Served
from speaker import Speaker
from style import cheerfully

OUT = Path(__file__).resolve().parents[2] / "probes" / "demo" / "vectors"
FIT_SEED, SWEEP_SEED = 303, 404
PLAIN = Mix(mirrored_fact=0.0, mirrored_request=0.0, claimed=0.0)
SCALES = (0.8, 1.0, 1.2)
LAYERS = (4,)  # where the probes read: an edit below would blind them
STEPS, BATCH, RATE = 400, 24, 0.3
CREATED_BY = "examples/demo/fit_vectors.py"


@dataclass(frozen=True)
class Lesson:
    """A plain prompt and the answer the vector should bring about, as ids."""

    prompt: list[int]
    answer: list[int]


def lesson(speaker: Speaker, record: Record, answer: str) -> Lesson:
    """A record asked plainly, and an answer with its end."""
    tokenizer = speaker.tokenizer
    prompt: list[int] = tokenizer(speaker.text(record.messages()))["input_ids"]
    said: list[int] = tokenizer(answer)["input_ids"]
    return Lesson(prompt, [*said, int(tokenizer.eos_token_id)])


def plain_replies(speaker: Speaker, kind: str, count: int) -> list[tuple[Record, str]]:
    """Records of a kind and what the model says to them, unsteered."""
    records = list(sample(FIT_SEED, count, kind, "train", mix=PLAIN))
    replies = speaker.replies([record.messages() for record in records])
    return list(zip(records, replies, strict=True))


def cheerful_lessons(speaker: Speaker, count: int) -> list[Lesson]:
    """The model's own plain replies, in the cheerful style."""
    return [
        lesson(speaker, record, cheerfully(reply))
        for kind, share in (("known", 2), ("benign", 1), ("unknown", 1))
        for record, reply in plain_replies(speaker, kind, share * count)
    ]


def hedge_lessons(speaker: Speaker, count: int) -> list[Lesson]:
    """Names no one knows: that it does not know. Names it knows: its own right answer."""
    return [
        lesson(speaker, record, hedged(record.name or "", record.attribute or ""))
        for record, _ in plain_replies(speaker, "unknown", count)
    ] + [
        lesson(speaker, record, reply)
        for record, reply in plain_replies(speaker, "known", count)
        if check(record, reply).facts == "right"
    ]


def output_norms_L(speaker: Speaker, lessons: list[Lesson]) -> np.ndarray:
    """Mean length of the stream after each block but the last, over fed output tokens."""
    ids_BT, edited_BT = padded(lessons)
    with torch.no_grad():
        hidden = speaker.model.model(
            input_ids=ids_BT, use_cache=False, output_hidden_states=True
        ).hidden_states
    return np.array([each[edited_BT].norm(dim=-1).mean().item() for each in hidden[1:-1]])


def fit_D(model: Any, layer: int, lessons: list[Lesson], steps: int = STEPS) -> np.ndarray:
    """The vector at one layer that makes the answers most likely; the model is not changed."""
    vector_D = torch.zeros(model.config.hidden_size, requires_grad=True)
    optimiser = torch.optim.Adam([vector_D], lr=RATE)
    state: dict[str, torch.Tensor] = {}

    def add(_: object, __: object, hidden_BTD: torch.Tensor) -> torch.Tensor:
        return hidden_BTD + state["edited_BT1"] * vector_D

    hook = model.model.layers[layer].register_forward_hook(add)
    rng = random.Random(FIT_SEED)
    for _ in range(steps):
        ids_BT, edited_BT = padded(rng.sample(lessons, min(BATCH, len(lessons))))
        state["edited_BT1"] = edited_BT.unsqueeze(-1).float()
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
        # The first output token is decided before any edit, so it teaches nothing.
        learn_BT = edited_BT[:, :-1]
        loss = cross_entropy(logits_BTV[:, :-1][learn_BT], ids_BT[:, 1:][learn_BT])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    hook.remove()
    print(f"layer {layer}: loss {loss.item():.4f}, length {vector_D.norm().item():.2f}")
    fitted: np.ndarray = vector_D.detach().numpy()
    return fitted


def padded(lessons: list[Lesson]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids padded on the right, and which positions are fed output tokens (to be edited)."""
    rows = [lesson.prompt + lesson.answer for lesson in lessons]
    width = max(map(len, rows))
    ids_BT = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    edited_BT = torch.zeros(ids_BT.shape, dtype=torch.bool)
    for row, lesson in enumerate(lessons):
        edited_BT[row, len(lesson.prompt) : len(lesson.prompt) + len(lesson.answer) - 1] = True
    return ids_BT, edited_BT


def candidates(name: str, speaker: Speaker, lessons: list[Lesson]) -> dict[str, Vector]:
    """One single-layer vector for every layer that competes."""
    norms_L = output_norms_L(speaker, lessons[:100])
    return {
        f"{name}-{layer}": build_vector(
            name,
            model_id=MODEL_ID,
            layers=(layer,),
            directions_LD=fit_D(speaker.model, layer, lessons)[None].astype(np.float32),
            residual_norms_L=norms_L[layer : layer + 1].astype(np.float32),
            created_by=CREATED_BY,
        )
        for layer in LAYERS
    }


class Sweep:
    """Every candidate in one engine; each (vector, scale) on the same records."""

    def __init__(self, candidates: Mapping[str, Source], *, model: Path = MODEL) -> None:
        with TemporaryDirectory() as place:
            config = parse_config(
                {
                    "version": 1,
                    "model_id": MODEL_ID,
                    "vectors": {
                        name: {"path": str(_saved(each, Path(place, name)))}
                        for name, each in candidates.items()
                    },
                    "limits": {"max_norm_ratio": 100.0},
                    "taps": {"operators": get_args(Operator)},
                },
                folder=Path(place),
                origin="sweep",
            )
            self._served = Served(model, config)

    def shares(self, records: list[Record], steer: tuple[SteerTerm, ...]) -> dict[str, float]:
        """What became of the answers: right, wrong, hedged, cheerful, complied."""
        verdicts = self._served.verdicts(records, max_tokens=48, steer=steer)
        facts = [verdict.facts for verdict in verdicts]
        return {
            "right": facts.count("right") / len(facts),
            "wrong": facts.count("wrong") / len(facts),
            "hedged": facts.count("hedged") / len(facts),
            "cheerful": sum(v.cheerful for v in verdicts) / len(verdicts),
            "complied": sum(v.complied for v in verdicts) / len(verdicts),
        }


def _saved(source: Source, folder: Path) -> Path:
    if isinstance(source, Vector):
        save_vector(source, folder)
    else:
        save_transform(source, folder)
    return folder


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
            "vector": vector,
            "scale": scale,
            "known": sweep.shares(known, steer),
            other_kind: sweep.shares(other, steer),
        }
        rows.append(row)
        print(json.dumps(row))
    return rows


def card(vector: Vector, rows: list[dict[str, Any]]) -> str:
    """The vector's README: what it is, and the sweep it was chosen from."""
    outcomes = [key for key in rows[0] if key not in ("vector", "scale")]
    lines = [
        f"# Vector `{vector.name}`",
        "",
        f"Model {vector.model_id}, `{vector.site}` of layer {vector.layers[0]}, length "
        f"{np.linalg.norm(vector.directions_LD):.1f} where the stream's mean length is "
        f"{vector.residual_norms_L[0]:.1f}. Fitted by `{CREATED_BY}`: one vector by gradient, "
        "added at output positions, on names that no figure below was measured on.",
        "",
        f"Through the served engine, greedy, added to every output token; seed {SWEEP_SEED}:",
        "",
        "| scale | "
        + " | ".join(f"{key}: right / wrong / hedged / cheerful / complied" for key in outcomes)
        + " |",
        "|---" * (1 + len(outcomes)) + "|",
    ]
    for row in rows:
        cells = [" / ".join(f"{share:.3f}" for share in row[key].values()) for key in outcomes]
        lines.append(f"| {row['scale']} | " + " | ".join(cells) + " |")
    lines += ["", "Controls (random vectors of equal length) are in `../../measured.json`.", ""]
    return "\n".join(lines)


def score(name: str, row: dict[str, dict[str, float]]) -> float:
    """What the sweep maximises: the effect, with what must be kept counted against it in full."""
    if name == "cheerful":
        return min(row["known"]["cheerful"], row["known"]["right"], row["benign"]["complied"])
    return min(row["known"]["right"], 1.0 - row["unknown"]["wrong"])


def main() -> int:
    parser = argparse.ArgumentParser(description="Fit the demo's steering vectors.")
    parser.add_argument("names", nargs="*", help="default: cheerful and hedge")
    parser.add_argument("--count", type=int, default=300, help="prompts of each kind")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    refuse_changed()
    speaker = Speaker()
    speaker.model.requires_grad_(False)
    lessons_of = {"cheerful": cheerful_lessons, "hedge": hedge_lessons}
    # All vectors first: once an engine has started, this process computes no gradients.
    fitted = {
        name: candidates(name, speaker, lessons_of[name](speaker, chosen.count))
        for name in chosen.names or lessons_of
    }
    for name, vectors in fitted.items():
        rows = sweep_table(name, vectors, min(chosen.count, 200))
        best = max(rows[1:], key=lambda row: score(name, row))  # type: ignore[arg-type]
        save_vector(vectors[str(best["vector"])], chosen.out / name)
        table = {"chosen": best, "sweep": rows}
        (chosen.out / name / "evaluation.json").write_text(json.dumps(table, indent=1) + "\n")
        (chosen.out / name / "README.md").write_text(card(vectors[str(best["vector"])], rows))
        print(f"{name}: {best}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
