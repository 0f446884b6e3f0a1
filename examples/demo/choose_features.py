"""Name features of the demo's SAE and freeze edits of them: `python choose_features.py`.

Only the training split is looked at, and transformers with a hook, no engine. The rule:

1. A feature is named by an outcome of replies (`outcomes.py`) that its code tells, at the place
   where it is then edited: the largest code over the answer (`output`), or the code at the last
   prompt token (`last_prompt`). The AUROC is at least NAMED, among texts that could have the
   outcome. Of those, the SHORT list of a place has the features that write most more with the
   outcome than without.
2. Each of a short list is set to a code of each length in LENGTHS, on SCREEN prompts. The one that
   brings the outcome about most often stays; of equals the shortest.
3. It is frozen if it does so on CONFIRM other prompts in at least FROZEN of those that have not
   the outcome by themselves.
4. Its control is a feature drawn by lot of those that are on in any text but are not named so, set
   at the same place to a code of the same length.

Shape suffixes: N texts, M features.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata

from edited_speaker import PLACES, EditedSpeaker, Set
from intervals import share
from outcomes import OUTCOMES, could_have, kinds_for, outcomes
from pilothouse.artifacts.saes.registry import LABELS_FILE, load_sae
from pilothouse.artifacts.saes.saelens import WEIGHTS_FILE
from record import Record
from runs import refuse_changed
from sample import sample
from train_sae import OUT, texts

NAMING_SEED, SCREEN_SEED, CONFIRM_SEED = "name-features", "screen-features", "confirm-features"
NAMING_PER_KIND, SCREEN, CONFIRM = 60, 16, 60
NAMED, SHORT, FROZEN = 0.65, 6, 0.9
LABELLED, LABELLED_FROM = 3, 0.95
LENGTHS = (80.0, 120.0, 160.0, 200.0, 240.0, 280.0)
EDITS_FILE = "edits.json"


class Read(NamedTuple):
    """Codes of texts: the largest of the answer's positions, and those of the last prompt token."""

    records: list[Record]
    outcomes: list[frozenset[str]]
    largest_NM: np.ndarray
    last_NM: np.ndarray
    average_norm: float
    """Mean length of the stream, over all tokens."""


def read(speaker: EditedSpeaker, records: list[Record]) -> Read:
    """The model's own replies to records, and the codes while it gives them."""
    replies = speaker.said(records, tokens=48)
    largest, last, norms = [], [], []
    with torch.inference_mode():
        for record, reply in zip(records, replies, strict=True):
            prompt = speaker.tokenizer(speaker.text(record.messages()))["input_ids"]
            fed = prompt + speaker.tokenizer(reply)["input_ids"]
            states = speaker.model.model(
                input_ids=torch.tensor([fed]), use_cache=False, output_hidden_states=True
            ).hidden_states
            hidden_TD = states[speaker.sae.tap.layer + 1][0]
            norms.append(hidden_TD.norm(dim=-1).numpy())
            codes_TM = speaker.codes(hidden_TD[len(prompt) - 1 :])
            largest.append(codes_TM.max(dim=0).values.numpy())
            last.append(codes_TM[0].numpy())
    found = [outcomes(each, said) for each, said in zip(records, replies, strict=True)]
    norm = float(np.concatenate(norms).mean())
    return Read(records, found, np.stack(largest), np.stack(last), norm)


def aurocs_M(is_so_N: np.ndarray, codes_NM: np.ndarray) -> np.ndarray:
    """How well each feature's code tells the texts apart; 0.5 for one that is never on."""
    ranks_NM = rankdata(codes_NM, axis=0)
    yes, no = is_so_N.sum(), (~is_so_N).sum()
    found_M: np.ndarray = (ranks_NM[is_so_N].sum(axis=0) - yes * (yes + 1) / 2) / (yes * no)
    return found_M


class Telling(NamedTuple):
    """Of each feature at a place: its AUROC for an outcome, how much more it writes with it."""

    auroc_M: np.ndarray
    gap_M: np.ndarray


def telling(seen: Read, outcome: str, lengths_M: np.ndarray) -> dict[str, Telling]:
    """How well features tell an outcome, by the place where they are read."""
    use_N = np.array([could_have(outcome, record) for record in seen.records])
    is_so_N = np.array([outcome in each for each in seen.outcomes])[use_N]
    found = {}
    for place, codes_NM in zip(PLACES, (seen.largest_NM[use_N], seen.last_NM[use_N]), strict=True):
        gap_M = codes_NM[is_so_N].mean(axis=0) - codes_NM[~is_so_N].mean(axis=0)
        found[place] = Telling(aurocs_M(is_so_N, codes_NM), gap_M * lengths_M)
    return found


def fresh(outcome: str, seed: int | str, count: int, split: str = "train") -> list[Record]:
    """Prompts on which an edit that stands for the outcome is tried, evenly of its kinds."""
    kinds = kinds_for(outcome)
    return [
        record for kind in kinds for record in sample(seed, -(-count // len(kinds)), kind, split)
    ]


def effects(
    speaker: EditedSpeaker, outcome: str, records: list[Record], edits: Sequence[Set]
) -> list[dict[str, float]]:
    """In how many replies each edit brings the outcome about."""
    asked = [record for _ in edits for record in records]
    said = speaker.said(asked, [edit for edit in edits for _ in records])
    has = [outcome in outcomes(*each) for each in zip(asked, said, strict=True)]
    size = len(records)
    return [share(sum(has[at * size : (at + 1) * size]), size) for at in range(len(edits))]


def without(speaker: EditedSpeaker, outcome: str, records: list[Record]) -> list[Record]:
    """Those records whose reply has not the outcome when nothing is edited."""
    said = speaker.said(records)
    return [
        record
        for record, reply in zip(records, said, strict=True)
        if outcome not in outcomes(record, reply)
    ]


def short_lists(told: dict[str, Telling]) -> Iterator[tuple[int, str]]:
    """The features of each place that are tried there."""
    for place, each in told.items():
        gap_M = np.where(each.auroc_M >= NAMED, each.gap_M, 0.0)
        yield from (
            (feature, place)
            for feature in map(int, np.argsort(-gap_M)[:SHORT])
            if gap_M[feature] > 0
        )


def screened(
    speaker: EditedSpeaker, outcome: str, told: dict[str, Telling]
) -> tuple[Set | None, float]:
    """The edit that brings an outcome about most often, of equals the shortest."""
    records = without(speaker, outcome, fresh(outcome, SCREEN_SEED, SCREEN))
    best, best_share = None, 0.0
    for length in LENGTHS:
        edits = [
            Set(feature, length / float(speaker.lengths_M[feature]), place)
            for feature, place in short_lists(told)
        ]
        got = [each["share"] for each in effects(speaker, outcome, records, edits)]
        if max(got, default=0.0) > best_share:
            best, best_share = edits[int(np.argmax(got))], max(got)
    return best, best_share


def choose(
    speaker: EditedSpeaker, seen: Read, outcome: str, told: dict[str, Telling]
) -> dict[str, Any]:
    """The best edit for an outcome, confirmed; its share is nought where no feature is named."""
    best, best_share = screened(speaker, outcome, told)
    print(f"{outcome}: {best}, {best_share}", flush=True)
    if best is None:
        return {"outcome": outcome, "confirmed": share(0, 0) | {"share": 0.0}, "feature": None}
    confirm = without(speaker, outcome, fresh(outcome, CONFIRM_SEED, CONFIRM))
    [confirmed] = effects(speaker, outcome, confirm, [best])
    length = float(np.mean(speaker.lengths))
    control = control_of(speaker, seen, outcome, told[best.place], best)
    [beside] = effects(speaker, outcome, confirm, [control])
    return {
        "outcome": outcome,
        "feature": best.feature,
        "auroc": round(float(told[best.place].auroc_M[best.feature]), 4),
        **term(speaker, best),
        "kinds": list(kinds_for(outcome)),
        "confirmed": confirmed,
        "edit_length": round(length, 1),
        "control": {
            "feature": control.feature,
            **term(speaker, control),
            "confirmed": beside,
            "edit_length": round(float(np.mean(speaker.lengths)), 1),
        },
    }


def control_of(speaker: EditedSpeaker, seen: Read, outcome: str, told: Telling, edit: Set) -> Set:
    """A live feature that does not tell the outcome, by lot, set as far and at the same place."""
    live_M = (seen.largest_NM > 0).mean(axis=0) > 0.01
    free = np.flatnonzero(live_M & (np.abs(told.auroc_M - 0.5) < NAMED - 0.5))
    draw = np.random.default_rng([OUTCOMES.index(outcome), 7])
    feature = int(draw.choice(free))
    length = edit.code * float(speaker.lengths_M[edit.feature])
    return Set(feature, length / float(speaker.lengths_M[feature]), edit.place)


def term(speaker: EditedSpeaker, edit: Set) -> dict[str, Any]:
    """An edit as a profile or a request has it; the code as a share of the feature's largest."""
    largest_M = speaker.sae.max_act_M
    assert largest_M is not None
    value = round(edit.code / float(largest_M[edit.feature]), 3)
    told: dict[str, Any] = {"op": "set", "value": value, "unit": "max_act"}
    if edit.place == "last_prompt":
        return told | {"on": "prompt", "positions": "last_prompt"}
    return told | {"on": edit.place}


def labels(tellings: dict[str, dict[str, Telling]], frozen: dict[str, int]) -> dict[str, str]:
    """Names: the frozen feature of an outcome has its plain name, the next best are numbered."""
    named = {feature: outcome for outcome, feature in frozen.items()}
    for outcome, told in tellings.items():
        auroc_M, number = np.maximum(*(each.auroc_M for each in told.values())), 2
        for feature in map(int, np.argsort(-auroc_M)[: LABELLED + 1]):
            if auroc_M[feature] >= LABELLED_FROM and feature not in named and number <= LABELLED:
                named[feature] = f"{outcome} {number}"
                number += 1
    return {str(feature): named[feature] for feature in sorted(named)}


def weights_sha256(folder: Path) -> str:
    """What the edits belong to; names are no part of it."""
    return hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description="Name and freeze features of the demo's SAE.")
    parser.add_argument("--sae", type=Path, default=OUT)
    chosen = parser.parse_args()
    refuse_changed()
    torch.set_num_threads(1)
    (chosen.sae / LABELS_FILE).unlink(missing_ok=True)
    speaker = EditedSpeaker(load_sae(chosen.sae.name, chosen.sae, "saelens"))
    seen = read(speaker, texts(NAMING_SEED, NAMING_PER_KIND, "train"))
    tellings = {each: telling(seen, each, speaker.lengths_M) for each in OUTCOMES}
    rows = []
    for outcome, told in tellings.items():
        rows.append(choose(speaker, seen, outcome, told))
        print(json.dumps(rows[-1]), flush=True)
    frozen = [row for row in rows if row["confirmed"]["share"] >= FROZEN]
    left = [row for row in rows if row["confirmed"]["share"] < FROZEN]
    table = {
        "created_by": "examples/demo/choose_features.py",
        "split": "train",
        "seeds": [NAMING_SEED, SCREEN_SEED, CONFIRM_SEED],
        "named_from_auroc": NAMED,
        "frozen_from": FROZEN,
        "lengths": LENGTHS,
        "weights_sha256": weights_sha256(chosen.sae),
        "average_norm": round(seen.average_norm, 2),
        "edits": frozen,
        "not_frozen": left,
    }
    (chosen.sae / EDITS_FILE).write_text(json.dumps(table, indent=1) + "\n")
    names = labels(tellings, {row["outcome"]: row["feature"] for row in frozen})
    (chosen.sae / LABELS_FILE).write_text(json.dumps(names, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
