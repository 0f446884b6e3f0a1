"""`python -m pilothouse.demo.sober`: what the policy that sobers a cheerful voice does.

The profile `smol:cheerful` steers every answer. The policy takes that back where a request reads
as harmful. Harmful requests and harmless ones that the probe was not fitted on are answered three
times: plain, cheerful, and cheerful under the policy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import yaml
from pydantic import Field

from pilothouse.config import PilothouseConfig, load_config
from pilothouse.contrast.measure import mean_interval
from pilothouse.demo.cache import cache_folder
from pilothouse.demo.hedge import STORE, enforced_for_chats
from pilothouse.demo.hedge_figures import Share, share
from pilothouse.demo.judges.mood import MOOD
from pilothouse.demo.own_answers import OwnAnswer, OwnAnswers
from pilothouse.demo.smol import smol_folder
from pilothouse.demo.texts.sets import SETS
from pilothouse.errors import PilothouseError
from pilothouse.library import library_path
from pilothouse.model.manifest import Closed, Interval
from pilothouse.model.probe import load_probe
from pilothouse.progress import Phase, progress

PROBE_NAME, POLICY_NAME, PROFILE = "misuse", "smol-sober", "smol:cheerful"
CARD_FILE: Final = "sober.json"
ASKED: Final = {"harmful": ("harmbench", 0.0), "harmless": ("plain-tasks", 0.8)}
"""Sets, and the share from which on: plain tasks below it are fitted on or calibrate."""
MOST: Final = 40
WRONG_USE: Final = 2


class Voice(Closed):
    """How answers to one kind of request sound."""

    source: str
    n: int = Field(ge=1)
    sobered: Share
    """Answers that the policy steered."""
    cheerful: Interval
    """VADER's number of the cheerful answers less that of the plain ones."""
    governed: Interval
    """The same under the policy."""


class SoberCard(Closed):
    """Every figure of the policy."""

    model_id: str
    probe_digest: str
    policy: str
    profile: str
    seed: int
    voices: dict[str, Voice]


def main(words: Sequence[str] | None = None) -> int:
    """Measure the policy; the exit code is 0, or 2 for what cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m pilothouse.demo.sober",
        description="Measure what sobering cheerful answers to harmful requests does.",
        epilog="Answers are kept in the cache folder: a run that was stopped goes on where it was.",
    )
    parser.add_argument("--seed", type=int, default=0, help="of intervals")
    given = parser.parse_args(words)
    folder = library_path("probes/smol") / "probes" / PROBE_NAME
    try:
        card = measured(given.seed)
    except PilothouseError as error:
        _tell(f"pilothouse: {error}")
        return WRONG_USE
    except KeyboardInterrupt:
        _tell("stopped: the same command goes on where it was")
        return 130
    (folder / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
    _tell(card.model_dump_json(indent=2))
    return 0


def measured(seed: int) -> SoberCard:
    """Ask the model and return every figure.

    Raises:
        ConfigError: texts or model cannot be had.
    """
    shelf = load_config(library_path("probes/smol") / "pilothouse.yaml")
    policy = library_path("policies") / "smol" / POLICY_NAME / "policy.yaml"
    document = yaml.safe_load(policy.read_text(encoding="utf-8"))
    with TemporaryDirectory(prefix="pilothouse-sober-") as room:
        enforced = Path(room) / "policy.yaml"
        chats = enforced_for_chats(document)
        chats["spec"]["match"]["profiles"] = document["spec"]["match"]["profiles"]
        enforced.write_text(yaml.safe_dump(chats), encoding="utf-8")
        config = PilothouseConfig(
            version=1, model_id=shelf.model_id, probes={PROBE_NAME: shelf.probes[PROBE_NAME]},
            vectors=shelf.vectors, profiles={PROFILE: shelf.profiles[PROFILE]},
            policies=(enforced,),
        )  # fmt: skip
        store, folder = cache_folder("cards") / STORE, smol_folder(_tell)
        with OwnAnswers(folder, config, PROBE_NAME, store) as model, progress() as phase:
            voices = {
                kind: _voice(model, config, source, asked(source, low), phase, seed)
                for kind, (source, low) in ASKED.items()
            }
    return SoberCard(
        model_id=folder.name,
        probe_digest=load_probe(PROBE_NAME, shelf.probes[PROBE_NAME].path).digest,
        policy=document["metadata"]["name"],
        profile=PROFILE,
        seed=seed,
        voices=voices,
    )


def asked(source: str, low: float) -> list[str]:
    """Return requests of a set from a share on, each once."""
    inside = {each.text: each.share for each in SETS[source].texts(_tell) if each.share >= low}
    return sorted(inside, key=lambda text: inside[text])[:MOST]


def _voice(
    model: OwnAnswers, config: PilothouseConfig, source: str, requests: Sequence[str],
    phase: Phase, seed: int,
) -> Voice:  # fmt: skip
    steer = config.profiles[PROFILE].steer
    plain = model.plain(requests, phase, f"{source}, plain")
    cheerful = model.plain(requests, phase, f"{source}, cheerful", steer)
    governed = model.governed(requests, phase, f"{source}, under the policy", PROFILE)
    return Voice(
        source=source,
        n=len(requests),
        sobered=share(np.array([POLICY_NAME in each.fired for each in governed])),
        cheerful=_moved(plain, cheerful, seed),
        governed=_moved(plain, governed, seed),
    )


def _moved(plain: Sequence[OwnAnswer], other: Sequence[OwnAnswer], seed: int) -> Interval:
    before_N, after_N = (
        np.array([MOOD.score(each.text) for each in answers]) for answers in (plain, other)
    )
    return mean_interval(after_N - before_N, [each.question for each in plain], seed)


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
