"""`python -m pilothouse.demo.hedge`: measures what the policy on the answer probe changes.

Every figure is remade from pinned wheels, the committed probe and policy, and one seed.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import yaml

from pilothouse.artifacts.probe import load_probe
from pilothouse.config import PilothouseConfig
from pilothouse.demo.cache import cache_folder
from pilothouse.demo.hedge_figures import (
    PROBE,
    HedgeCard,
    Judged,
    as_many,
    chosen_threshold,
    declined,
    doubts,
    judged,
    loop,
    ranks,
)
from pilothouse.demo.hedge_page import page
from pilothouse.demo.own_answers import MAX_TOKENS, OwnAnswers
from pilothouse.demo.questions import Fact
from pilothouse.demo.smol import smol_folder
from pilothouse.demo.texts.sets import SETS
from pilothouse.errors import ConfigError, PilothouseError
from pilothouse.library import library_path
from pilothouse.progress import Phase, progress

PROBE_NAME: Final = "wrong-answer"
POLICY_NAME: Final = "smol-hedge"
SIGNAL: Final = "doubt"
CARD_FILE, PAGE_FILE = "hedge.json", "hedge.md"
STORE: Final = "own-answers.sqlite"
CHOOSING, TESTING = (0.5, 0.7, 200), (0.7, 1.0, 300)
"""Shares of NQ-open's questions, and at most so many: the probe was fitted below the first."""
WRONG_USE: Final = 2


def main(words: Sequence[str] | None = None) -> int:
    """Measure the closed loop; the exit code is 0, or 2 for what cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m pilothouse.demo.hedge",
        description="Measure what declining answers in doubt does to the real model's answers.",
        epilog="Answers are kept in the cache folder: a run that was stopped goes on where it was.",
    )
    parser.add_argument("--probe", type=Path, help="folder of the probe; the library's own")
    parser.add_argument("--policy", type=Path, help="file of the policy; the library's own")
    parser.add_argument("--seed", type=int, default=0, help="of intervals")
    given = parser.parse_args(words)
    probe = given.probe or library_path("probes/smol") / "probes" / PROBE_NAME
    policy = (
        given.policy or library_path("examples/smol") / "policies" / POLICY_NAME / "policy.yaml"
    )
    try:
        card = measured(probe, policy, given.seed)
    except PilothouseError as error:
        _tell(f"pilothouse: {error}")
        return WRONG_USE
    except KeyboardInterrupt:
        _tell("stopped: the same command goes on where it was")
        return 130
    (probe / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (probe / PAGE_FILE).write_text(page(card), encoding="utf-8")
    return 0


def measured(probe: Path, policy: Path, seed: int) -> HedgeCard:
    """Ask the model, without the policy and with it enforced, and return every figure.

    Raises:
        ConfigError: texts or model cannot be had, or the policy has another threshold than the
            questions choose.
    """
    accepted = accepted_by_question()
    document = yaml.safe_load(policy.read_text(encoding="utf-8"))
    with TemporaryDirectory(prefix="pilothouse-hedge-") as room:
        enforced = Path(room) / "policy.yaml"
        enforced.write_text(yaml.safe_dump(enforced_for_chats(document)), encoding="utf-8")
        store, folder = cache_folder("cards") / STORE, smol_folder(_tell)
        config = PilothouseConfig.model_validate(
            {
                "version": 1,
                "model_id": folder.name,
                "probes": {PROBE_NAME: {"path": probe}},
                "policies": [enforced],
            }
        )
        with OwnAnswers(folder, config, PROBE_NAME, store) as model, progress() as phase:
            return _figures(model, probe, accepted, document, phase, seed)


def _figures(
    model: OwnAnswers,
    probe: Path,
    accepted: dict[str, Fact],
    document: dict[str, Any],
    phase: Phase,
    seed: int,
) -> HedgeCard:
    choosing, testing = (questions(*each) for each in (CHOOSING, TESTING))
    chose = judged(model.plain(choosing, phase, "answers that choose"), accepted)
    before = judged(model.plain(testing, phase, "answers without the policy"), accepted)
    doubt_N = doubts(chose)[PROBE]
    threshold = chosen_threshold(doubt_N, np.array([each.right for each in chose]))
    check_threshold(document, threshold)
    after = judged(model.governed(testing, phase, "answers with the policy"), accepted)
    doubted = doubts(before)
    count = int((doubted[PROBE] >= threshold).sum())
    ranked, leads = ranks(before, seed)
    return HedgeCard(
        model_id=load_probe(probe.name, probe).model_id,
        probe=probe.name,
        probe_digest=load_probe(probe.name, probe).digest,
        policy=document["metadata"]["name"],
        seed=seed,
        max_tokens=MAX_TOKENS,
        choosing=len(chose),
        testing=len(before),
        right_choosing=sum(each.right for each in chose),
        unscored=_unscored([*chose, *before]),
        threshold=threshold,
        chosen=declined(PROBE, doubt_N, threshold, chose, seed),
        ranks=ranked,
        leads=leads,
        declined=tuple(
            declined(
                name, each_N, threshold if name == PROBE else as_many(each_N, count), before, seed
            )
            for name, each_N in doubted.items()
        ),
        loop=loop(before, after),
    )


def accepted_by_question() -> dict[str, Fact]:
    """Return what NQ-open accepts as an answer to each of its questions."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for each in SETS["nq-accepted"].texts(_tell):
        found[each.group].append(each.text)
    return {question: Fact(question, said[0], tuple(said[1:])) for question, said in found.items()}


def questions(low: float, high: float, most: int) -> list[str]:
    """Return questions of NQ-open by their share."""
    inside = {
        each.text: each.share
        for each in SETS["nq-questions"].texts(_tell)
        if low <= each.share < high
    }
    return sorted(inside, key=lambda text: inside[text])[:most]


def enforced_for_chats(document: dict[str, Any]) -> dict[str, Any]:
    """Return the policy enforced on chats alone, so that plain completions can be asked beside."""
    spec = document["spec"] | {"mode": "enforce", "match": {"endpoints": ["chat"]}}
    return document | {"spec": spec}


def check_threshold(document: dict[str, Any], threshold: float) -> None:
    """Refuse a policy with another threshold than the one that was chosen.

    Raises:
        ConfigError: it says another.
    """
    wanted = f"{SIGNAL} >= {threshold:g}"
    conditions = [str(each["when"]) for each in document["spec"]["rules"]]
    if conditions != [wanted]:
        raise ConfigError(
            where=f"{document['metadata']['name']}: rules",
            got=conditions,
            want=str([wanted]),
            fix="that is what the questions that choose say of this probe; write it into the "
            "policy",
        )


def _unscored(answers: Sequence[Judged]) -> int:
    return sum(each.answer.value is None for each in answers)


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
