"""Measure the demo's SAE and its frozen edits on fresh prompts: `python measure_sae.py --seed N`.

What it explains of the stream, on texts of the splits that it was not trained on. Then each edit of
`edits.json` and its control, through the engine as it is served, on prompts whose reply has not the
outcome by itself: how often it has it then. 95% Wilson intervals. Writes evaluation and card.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

from choose_features import EDITS_FILE, fresh, weights_sha256
from intervals import share
from outcomes import outcomes
from pilothouse import LLM, Steer
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.config import parse_config
from reconstruction import reconstruction
from record import Record
from runs import MODEL, MODEL_ID, refuse_changed
from sae_card import card
from speaker import Speaker
from train_sae import OUT, texts

SPLITS = ("test", "heldout")
MAX_TOKENS = 48
GOAL = 0.8


class Bench:
    """The model as it is served, with the SAE loaded."""

    def __init__(self, sae: Path, average_norm: float) -> None:
        from vllm import SamplingParams

        raw = {
            "version": 1,
            "model_id": MODEL_ID,
            "limits": {"max_norm_ratio": 1.5},
            "saes": {sae.name: {"path": str(sae), "average_norm": average_norm}},
            "taps": {"operators": ["feature"]},
        }
        config = parse_config(raw, folder=Path(), origin="measure_sae")
        self._sae = sae.name
        self._params = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)
        self._llm = LLM(
            str(MODEL),
            pilothouse_config=config,
            dtype="float32",
            enforce_eager=True,
            max_model_len=512,
        )

    def said(self, records: list[Record], edit: dict[str, Any] | None = None) -> list[str]:
        """Greedy replies, under an edit as `edits.json` has it."""
        steer = [] if edit is None else [self.term(edit)]
        chats = [record.messages() for record in records]
        outputs = self._llm.chat(chats, self._params, steer=steer, use_tqdm=False)
        return [output.outputs[0].text for output in outputs]

    def term(self, edit: dict[str, Any]) -> Steer:
        """The line of steering that an edit is."""
        known = ("feature", "op", "value", "unit", "on", "positions")
        return Steer(sae=self._sae, **{name: edit[name] for name in known if name in edit})


def without(bench: Bench, outcome: str, records: list[Record]) -> list[Record]:
    """Those records whose reply has not the outcome when nothing is edited."""
    replies = bench.said(records)
    return [
        record
        for record, reply in zip(records, replies, strict=True)
        if outcome not in outcomes(record, reply)
    ]


def brought_about(bench: Bench, outcome: str, records: list[Record], edit: dict[str, Any]) -> int:
    """In how many replies the edit brings the outcome about."""
    replies = bench.said(records, edit)
    return sum(outcome in outcomes(*each) for each in zip(records, replies, strict=True))


def accept(bench: Bench, table: dict[str, Any], seed: int, count: int) -> dict[str, Any]:
    """Every frozen edit and its control, split by split and together."""
    result: dict[str, Any] = {}
    for split in SPLITS:
        rows, totals = [], [0, 0, 0]
        for edit in table["edits"]:
            outcome = edit["outcome"]
            records = without(bench, outcome, fresh(outcome, seed, count, split))
            hits = brought_about(bench, outcome, records, edit)
            beside = brought_about(bench, outcome, records, edit["control"])
            totals = [a + b for a, b in zip(totals, (hits, beside, len(records)), strict=True)]
            rows.append(
                {
                    "outcome": outcome,
                    "feature": edit["feature"],
                    "effect": share(hits, len(records)),
                    "control_feature": edit["control"]["feature"],
                    "control": share(beside, len(records)),
                }
            )
            print(split, json.dumps(rows[-1]), flush=True)
        hits, beside, whole = totals
        result[split] = {
            "edits": rows,
            "all": {"effect": share(hits, whole), "control": share(beside, whole)},
        }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the demo's SAE on fresh prompts.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=100, help="prompts for each edit and split")
    parser.add_argument("--texts", type=int, default=30, help="texts of each kind and split")
    parser.add_argument("--sae", type=Path, default=OUT)
    chosen = parser.parse_args()
    refuse_changed()
    torch.set_num_threads(1)
    table = json.loads((chosen.sae / EDITS_FILE).read_text())
    sae = load_sae(chosen.sae.name, chosen.sae, "saelens")
    found = weights_sha256(chosen.sae)
    if found != table["weights_sha256"]:
        raise SystemExit(f"{EDITS_FILE}: made for weights {table['weights_sha256']}, got {found}")
    speaker = Speaker()
    assert sae.max_act_M is not None
    result: dict[str, Any] = {
        "seed": chosen.seed,
        "weights_sha256": found,
        "never_on_in_training": int((sae.max_act_M == 0).sum()),
    }
    result["reconstruction"] = {
        split: reconstruction(sae, speaker, texts(chosen.seed, chosen.texts, split))
        for split in SPLITS
    }
    print(json.dumps(result["reconstruction"], indent=1), flush=True)
    bench = Bench(chosen.sae.resolve(), table["average_norm"])
    result["edits"] = accept(bench, table, chosen.seed, chosen.count)
    (chosen.sae / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    (chosen.sae / "README.md").write_text(card(chosen.sae))
    return 0 if all(result["edits"][s]["all"]["effect"]["share"] >= GOAL for s in SPLITS) else 1


if __name__ == "__main__":
    raise SystemExit(main())
