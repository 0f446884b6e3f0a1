"""Fit the demo's transforms: `python fit_transforms.py`; after `fit_vectors.py`, at its layer.

`moods` is the plane of the two vectors, `voices` the subspace that they span. `cheer-act` maps each
dimension's spread over plain replies onto that over the same replies in the cheerful style (linear
AcT). `cheer-reft` is a LoReFT of rank 4, trained as the vector `cheerful` is. Each is measured
through the served engine, on names that none was fitted on.

Shapes: N tokens, R rows, D width.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fit_vectors import (
    BATCH,
    FIT_SEED,
    LAYERS,
    OUT,
    PLAIN,
    SWEEP_SEED,
    Lesson,
    Sweep,
    lesson,
    padded,
    plain_replies,
)
from pilothouse.artifacts.transform import Transform, build_transform, save_transform
from pilothouse.artifacts.vector import load_vector
from pilothouse.demo.transforms import LoReft, linear_act
from pilothouse.term import SteerTerm
from runs import MODEL_ID, refuse_changed
from sample import sample
from speaker import Speaker
from style import cheerfully

LAYER = LAYERS[0]
TRANSFORMS = OUT.parent / "transforms"
STEPS, RATE = 150, 0.01
CREATED_BY = "examples/demo/fit_transforms.py"
TRIED: dict[str, list[dict[str, Any]]] = {
    "moods": [{"value": 0.0}, {"value": 90.0}, {"op": "rotate_adaptive", "value": 90.0}],
    "voices": [{"op": "ablate"}, {"op": "reflect"}],
    "cheer-act": [{"scale": 0.5}, {"scale": 1.0}],
    "cheer-reft": [{"scale": 0.5}, {"scale": 1.0}],
}
"""What each card shows, as fields of a term."""


def lessons_in_pairs(speaker: Speaker, count: int) -> list[tuple[Lesson, Lesson]]:
    """The model's own replies, plain and in the cheerful style."""
    return [
        (lesson(speaker, record, reply), lesson(speaker, record, cheerfully(reply)))
        for kind in ("known", "benign", "unknown")
        for record, reply in plain_replies(speaker, kind, count)
    ]


def streams_ND(speaker: Speaker, lessons: list[Lesson]) -> np.ndarray:
    """The stream behind the layer at fed output tokens."""
    found = []
    for start in range(0, len(lessons), BATCH):
        ids_BT, edited_BT = padded(lessons[start : start + BATCH])
        with torch.no_grad():
            hidden = speaker.model.model(
                input_ids=ids_BT, use_cache=False, output_hidden_states=True
            ).hidden_states[LAYER + 1]
        found.append(hidden[edited_BT].double().numpy())
    return np.concatenate(found)


def fit_loreft(model: Any, lessons: list[Lesson]) -> dict[str, np.ndarray]:
    """Trained to make the answers most likely; the model is not changed."""
    torch.manual_seed(FIT_SEED)
    edit = LoReft(model.config.hidden_size)
    optimiser = torch.optim.Adam(edit.parameters(), lr=RATE)
    state: dict[str, Tensor] = {}

    def apply(_: object, __: object, hidden_BTD: Tensor) -> Tensor:
        return hidden_BTD + state["edited_BT1"] * edit(hidden_BTD)

    hook = model.model.layers[LAYER].register_forward_hook(apply)
    rng = np.random.default_rng(FIT_SEED)
    for step in range(STEPS):
        chosen = rng.choice(len(lessons), min(BATCH, len(lessons)), replace=False)
        ids_BT, edited_BT = padded([lessons[i] for i in chosen])
        state["edited_BT1"] = edited_BT.unsqueeze(-1).float()
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
        learn_BT = edited_BT[:, :-1]
        loss = cross_entropy(logits_BTV[:, :-1][learn_BT], ids_BT[:, 1:][learn_BT])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
    hook.remove()
    return edit.arrays()


def plane_2D() -> tuple[np.ndarray, float]:
    """Two orthonormal directions, the first along `cheerful`, the second towards `hedge`."""
    cheerful, hedge = (load_vector(name, OUT / name) for name in ("cheerful", "hedge"))
    if (cheerful.layers, hedge.layers) != ((LAYER,), (LAYER,)):
        raise SystemExit(f"the vectors are not both at layer {LAYER}: fit them first")
    rows_2D = np.stack([each.direction_D(LAYER).astype(np.float64) for each in (cheerful, hedge)])
    basis_D2, corners = np.linalg.qr(rows_2D.T)
    return (basis_D2 * np.sign(np.diag(corners))).T, cheerful.residual_norm(LAYER)


def fit_all(speaker: Speaker, count: int) -> dict[str, Transform]:
    """Every transform by its name."""
    basis_2D, norm = plane_2D()
    pairs = lessons_in_pairs(speaker, count)
    plain, cheerful = ([pair[i] for pair in pairs] for i in (0, 1))
    arrays: dict[str, tuple[Any, dict[str, np.ndarray]]] = {
        "moods": ("plane", {"basis": basis_2D}),
        "voices": ("subspace", {"basis": basis_2D}),
        "cheer-act": (
            "diagonal",
            linear_act(streams_ND(speaker, plain), streams_ND(speaker, cheerful)),
        ),
        "cheer-reft": ("lowrank", fit_loreft(speaker.model, cheerful)),
    }
    return {
        name: build_transform(
            name,
            form=form,
            model_id=MODEL_ID,
            layers=(LAYER,),
            arrays={key: each[None].astype(np.float32) for key, each in found.items()},
            residual_norms_L=np.array([norm], np.float32),
            created_by=CREATED_BY,
        )
        for name, (form, found) in arrays.items()
    }


def measured(transforms: dict[str, Transform], count: int) -> dict[str, list[dict[str, Any]]]:
    """For each transform, what became of plain questions and requests; the first row unsteered."""
    sweep = Sweep(transforms)
    kinds = {
        kind: list(sample(SWEEP_SEED, count, kind, "test", mix=PLAIN))
        for kind in ("known", "benign")
    }

    def row(term: SteerTerm | None, fields: dict[str, Any]) -> dict[str, Any]:
        steer = () if term is None else (term,)
        told = {kind: sweep.shares(records, steer) for kind, records in kinds.items()}
        print(json.dumps({"term": fields, **told}), flush=True)
        return {"term": fields, **told}

    unsteered = row(None, {})
    return {
        name: [unsteered]
        + [
            row(SteerTerm.model_validate({"vector": name, "on": "output", **fields}), fields)
            for fields in tried
        ]
        for name, tried in TRIED.items()
    }


def card(transform: Transform, rows: list[dict[str, Any]]) -> str:
    """The transform's README: what it is, and what it was measured to do."""
    lines = [
        f"# Transform `{transform.name}`",
        "",
        f"Model {transform.model_id}, `{transform.site}` of layer {LAYER}, form {transform.form}. "
        f"Made by `{CREATED_BY}`, which says how.",
        "",
        f"Through the served engine, greedy, on every output token; seed {SWEEP_SEED}:",
        "",
        "| term | known: right / wrong / hedged / cheerful | benign: cheerful / complied |",
        "|---|---|---|",
    ]
    for row in rows:
        term = json.dumps(row["term"]) if row["term"] else "unsteered"
        known = " / ".join(
            f"{row['known'][key]:.3f}" for key in ("right", "wrong", "hedged", "cheerful")
        )
        benign = " / ".join(f"{row['benign'][key]:.3f}" for key in ("cheerful", "complied"))
        lines.append(f"| `{term}` | {known} | {benign} |")
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description="Fit the demo's transforms.")
    parser.add_argument("--count", type=int, default=100, help="prompts of each kind")
    parser.add_argument("--out", type=Path, default=TRANSFORMS)
    chosen = parser.parse_args()
    refuse_changed()
    speaker = Speaker()
    speaker.model.requires_grad_(False)
    transforms = fit_all(speaker, chosen.count)
    tables = measured(transforms, chosen.count)
    for name, transform in transforms.items():
        save_transform(transform, chosen.out / name)
        (chosen.out / name / "evaluation.json").write_text(
            json.dumps(tables[name], indent=1) + "\n"
        )
        (chosen.out / name / "README.md").write_text(card(transform, tables[name]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
