"""Three ways to steer away from barred answers with SAE features: `python detox.py --seed N`.

After the idea of Breaking Bad Tokens (arXiv 2505.14536): features of an SAE, at every answer
(`constant`), where a probe finds the prompt barred (`input_gated`, a policy), or at the tokens
alone where another feature is on (`token_gated`: a decoder row as a vector, the other feature as a
probe that gates it). Beside them nothing at all, and a random live feature set as far. Features and
values are those frozen by `choose_features.py` on the training split; the prompts are of the other
splits. 95% Wilson and bootstrap intervals.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

from card import percent, table
from check import check
from choose_features import EDITS_FILE
from intervals import share
from pilothouse import LLM
from pilothouse.artifacts.probe import save_probe
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.artifacts.vector import build_vector, save_vector
from pilothouse.config import load_config
from pilothouse.edits.feature_probe import feature_probe
from record import Record
from runs import MODEL, refuse_changed
from sample import sample
from speaker import Speaker
from train_sae import OUT

HERE = Path(__file__).with_name("detox")
FILE, GATED = HERE / "pilothouse.yaml", HERE / "gated.yaml"
TIERS = {
    "none": None,
    "constant": "detox:constant",
    "input_gated": None,
    "token_gated": "detox:token-gated",
    "random_feature": "detox:random",
}
SPLITS = ("test", "heldout")
MAX_TOKENS, ROUNDS = 48, 300
BARRED_FEATURE = 119
"""On at the last prompt token of requests for barred deeds, and hardly anywhere else."""

CREATED_BY = "examples/demo/detox.py"


def write_artefacts() -> None:
    """The decoder row of the frozen `refuses`, as long as its edit, and the gate as a probe."""
    edits = json.loads((OUT / EDITS_FILE).read_text())
    [edit] = [each for each in edits["edits"] if each["outcome"] == "refuses"]
    sae = load_sae(OUT.name, OUT, "saelens")
    assert sae.max_act_M is not None
    code = edit["value"] * sae.max_act_M[edit["feature"]]
    vector = build_vector(
        "refuses-row",
        model_id=sae.model_id,
        layers=(sae.tap.layer,),
        directions_LD=(code * sae.decoder_MD.row(edit["feature"]))[None].astype(np.float32),
        residual_norms_L=np.array([edits["average_norm"]], np.float32),
        created_by=CREATED_BY,
    )
    save_vector(vector, HERE / "vectors" / vector.name)
    save_probe(feature_probe("barred", sae, BARRED_FEATURE, CREATED_BY), HERE / "probes" / "barred")


class Bench:
    """The model as it is served under one file."""

    def __init__(self, file: Path) -> None:
        from vllm import SamplingParams

        self._params = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)
        self._llm = LLM(
            str(MODEL),
            pilothouse_config=load_config(file),
            dtype="float32",
            enforce_eager=True,
            max_model_len=512,
        )

    def said(self, records: list[Record], profile: str | None) -> list[str]:
        """Greedy replies under a profile."""
        chats = [record.messages() for record in records]
        outputs = self._llm.chat(chats, self._params, profile=profile, use_tqdm=False)
        return [output.outputs[0].text for output in outputs]


@torch.inference_mode()
def surprise(speaker: Speaker, record: Record, reply: str) -> tuple[float, int]:
    """The unsteered model's summed loss on a reply and its end, and how many tokens they are."""
    prompt = speaker.tokenizer(speaker.text(record.messages()))["input_ids"]
    said = [*speaker.tokenizer(reply)["input_ids"], int(speaker.tokenizer.eos_token_id)]
    logits_TV = speaker.model(torch.tensor([prompt + said]), use_cache=False).logits[0]
    told = cross_entropy(logits_TV[len(prompt) - 1 : -1], torch.tensor(said), reduction="sum")
    return float(told), len(said)


def drift(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Perplexity of steered replies over that of unsteered ones; rows are (loss, tokens)."""

    def ratio(rows: Any) -> float:
        (loss, count), (base, whole) = after[rows].sum(axis=0), before[rows].sum(axis=0)
        return float(np.exp(loss / count - base / whole))

    draw, whole = np.random.default_rng(0), np.arange(len(before))
    values = [ratio(draw.integers(0, len(before), len(before))) for _ in range(ROUNDS)]
    low, high = np.quantile(values, [0.025, 0.975])
    return {
        "ratio": round(ratio(whole), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
        "n": len(before),
    }


def measure(seed: int, count: int) -> dict[str, Any]:
    """Every tier on the same prompts."""
    prompts = {
        split: {
            kind: list(sample(seed, count, kind, split))
            for kind in ("jailbroken", "forbidden", "known", "benign")
        }
        for split in SPLITS
    }
    said: dict[str, dict[str, dict[str, list[str]]]] = {}
    for file, tiers in (
        (FILE, [each for each in TIERS if each != "input_gated"]),
        (GATED, ["input_gated"]),
    ):
        bench = Bench(file)
        for tier in tiers:
            said[tier] = {
                split: {kind: bench.said(each, TIERS[tier]) for kind, each in kinds.items()}
                for split, kinds in prompts.items()
            }
            print(tier, said[tier]["test"]["jailbroken"][:2], flush=True)
        del bench
    speaker, result = Speaker(), {}
    for split, kinds in prompts.items():
        harmless = kinds["known"] + kinds["benign"]
        plain = said["none"][split]
        before = np.array(
            [
                surprise(speaker, *each)
                for each in zip(harmless, plain["known"] + plain["benign"], strict=True)
            ]
        )
        result[split] = {
            tier: figures(speaker, kinds, replies[split], before)
            | {"example": replies[split]["jailbroken"][0]}
            for tier, replies in said.items()
        }
    return {"seed": seed, "count_per_kind": count, "tiers": result}


def figures(
    speaker: Speaker,
    kinds: dict[str, list[Record]],
    replies: dict[str, list[str]],
    before: np.ndarray,
) -> dict[str, Any]:
    """One tier's row."""
    verdicts = {
        kind: [check(*each) for each in zip(records, replies[kind], strict=True)]
        for kind, records in kinds.items()
    }
    barred = verdicts["jailbroken"] + verdicts["forbidden"]
    after = np.array(
        [
            surprise(speaker, *each)
            for each in zip(
                kinds["known"] + kinds["benign"], replies["known"] + replies["benign"], strict=True
            )
        ]
    )
    return {
        "jailbroken_answered": share(
            sum(each.complied for each in verdicts["jailbroken"]), len(kinds["jailbroken"])
        ),
        "barred_answered": share(sum(each.complied for each in barred), len(barred)),
        "facts_right": share(
            sum(each.facts == "right" for each in verdicts["known"]), len(kinds["known"])
        ),
        "benign_answered": share(
            sum(each.complied for each in verdicts["benign"]), len(kinds["benign"])
        ),
        "perplexity_drift": drift(before, after),
    }


def written(result: dict[str, Any]) -> str:
    """The tables, to stand in README and docs."""
    lines = []
    for split, tiers in result["tiers"].items():
        rows = [
            [
                tier.replace("_", " "),
                percent(row["jailbroken_answered"]),
                percent(row["barred_answered"]),
                percent(row["facts_right"]),
                percent(row["benign_answered"]),
                "{ratio:.3f} ({low:.3f} to {high:.3f}, n {n})".format(**row["perplexity_drift"]),
            ]
            for tier, row in ((name, tiers[name]) for name in TIERS)
        ]
        head = [
            "tier",
            "jailbreaks answered",
            "barred answered",
            "facts right",
            "benign answered",
            "perplexity of harmless replies, over unsteered",
        ]
        lines.append(f"Split `{split}`, seed {result['seed']}:\n\n" + table(head, rows))
    lines.append("The first jailbreak of the split `test`, and what it is answered:\n")
    shown = result["tiers"]["test"]
    lines += [f"- {tier.replace('_', ' ')}: `{shown[tier]['example'].strip()}`" for tier in TIERS]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure three tiers of detox on fresh prompts.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=100, help="prompts of each kind and split")
    chosen = parser.parse_args()
    refuse_changed()
    torch.set_num_threads(1)
    write_artefacts()
    result = measure(chosen.seed, chosen.count)
    (HERE / "measured.json").write_text(json.dumps(result, indent=1) + "\n")
    page = HERE / "README.md"
    head = page.read_text().split("## Measured")[0]
    page.write_text(head + "## Measured\n\n" + written(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
