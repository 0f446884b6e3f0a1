"""`python -m pilothouse.demo.card`: remakes the real model's vectors and every figure about them.

Shape suffixes: L layers, D width of the stream.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from pilothouse import __version__
from pilothouse.artifacts.vector import save_vector
from pilothouse.demo.answers import Answerer
from pilothouse.demo.cache import cache_folder
from pilothouse.demo.directions import METHOD, Directions, fit_directions, vector_of
from pilothouse.demo.evaluation import Bench
from pilothouse.demo.judges.refusal import REFUSAL
from pilothouse.demo.places import LAYERS, terms_of
from pilothouse.demo.poles import SUBJECTS, Subject
from pilothouse.demo.questions import dealt, load_facts, open_questions
from pilothouse.demo.refusal_labels import agreement, harmful_requests, labelled_answers
from pilothouse.demo.smol import smol_folder
from pilothouse.demo.vector_card import PoleCard, VectorCard
from pilothouse.demo.vector_figures import measured
from pilothouse.demo.vector_page import overview, readme
from pilothouse.engine.vllm.version import vllm_version
from pilothouse.errors import PilothouseError
from pilothouse.library import library_path
from pilothouse.probes.metrics import wilson
from pilothouse.progress import progress
from pilothouse.training.pair import Pair, load_pairs

CHOOSING, TESTING, CHOOSING_FACTS, DRAWS = 60, 210, 50, 3
LEAST_TESTING: Final = 2 * DRAWS
"""The fewest questions with which every control has one."""
QUICK_CHOOSING, QUICK_TESTING, QUICK_FACTS, QUICK_DRAWS = 8, 16, 24, 1
CARD_FILE, FIT_FILE, PAGE_FILE = "card.json", "fit.json", "README.md"
STORE: Final = "answers.sqlite"
WRONG_USE: Final = 2
USAGE: Final = """Answers are kept in the cache folder by what was asked, so a run that was stopped
goes on where it was. --quick takes minutes, and its figures are of too few questions to be
quoted."""


def main(words: Sequence[str] | None = None) -> int:
    """Make the vectors and their cards; the exit code is 0, or 2 for what cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m pilothouse.demo.card",
        epilog=USAGE,
        description="Remake the real model's vectors, and every figure on their cards.",
    )
    names = [each.name for each in SUBJECTS]
    parser.add_argument(
        "--only", action="append", choices=names, help="vectors, in this order; all, if not said"
    )
    parser.add_argument("--out", type=Path, help="folder of the vectors; the library's own")
    parser.add_argument("--seed", type=int, default=0, help="of questions, controls and intervals")
    parser.add_argument("--testing", type=int, default=TESTING, help="questions that test")
    parser.add_argument("--quick", action="store_true", help="few questions, one control of a kind")
    given = parser.parse_args(words)
    if given.testing < LEAST_TESTING:
        parser.error(f"--testing: got {given.testing}, want at least {LEAST_TESTING}")
    out = given.out or library_path("probes/smol") / "vectors"
    by_name = {each.name: each for each in SUBJECTS}
    chosen = [by_name[name] for name in dict.fromkeys(given.only or names)]
    try:
        make_cards(chosen, out, seed=given.seed, testing=given.testing, quick=given.quick)
    except PilothouseError as error:
        _tell(str(error))
        return WRONG_USE
    except KeyboardInterrupt:
        _tell("stopped: the same command goes on where it was")
        return 130
    return 0


def make_cards(
    subjects: Sequence[Subject], out: Path, *, seed: int, testing: int, quick: bool
) -> None:
    """Write each vector's folder when its figures are there, and the page of all anew.

    Raises:
        PilothouseError: model, questions or pairs cannot be had.
    """
    examples = library_path("examples/smol")
    pairs = {each.name: load_pairs(examples / "pairs" / f"{each.name}.jsonl") for each in SUBJECTS}
    questions = open_questions(
        [pair for part in pairs.values() for pair in part],
        choosing=QUICK_CHOOSING if quick else CHOOSING,
        testing=QUICK_TESTING if quick else testing,
        seed=seed,
        tell=_tell,
    )
    facts = dealt(load_facts(examples), seed)
    chooses, tests = facts[:CHOOSING_FACTS], facts[CHOOSING_FACTS:]
    for each in subjects:
        each.judged_by.score("A judge that cannot be had should end it here, not in an hour.")
    model = smol_folder(_tell)

    started = time.monotonic()
    with Answerer(model, LAYERS, cache_folder("cards") / STORE) as answerer, progress() as phase:
        bench = Bench(
            answerer,
            questions.choosing,
            questions.testing,
            chooses[:QUICK_FACTS] if quick else chooses,
            tests[:QUICK_FACTS] if quick else tests,
            QUICK_DRAWS if quick else DRAWS,
            max(1, len(questions.testing) // 2),
            seed,
            phase,
        )
        for done, subject in enumerate(subjects, 1):
            source = examples / "pairs" / f"{subject.name}.jsonl"
            _make(bench, subject, pairs[subject.name], source, questions.dropped, out)
            _write_overview(out)
            seconds = time.monotonic() - started
            left = seconds / done * (len(subjects) - done)
            _tell(
                f"{subject.name}: {done} of {len(subjects)} vectors, {_minutes(seconds)}, "
                f"about {_minutes(left)} left"
            )


def _make(
    bench: Bench,
    subject: Subject,
    pairs: Sequence[Pair],
    source: Path,
    dropped: int,
    out: Path,
) -> None:
    states = bench.answerer.states(pairs, bench.phase)
    groups = [each.group_name for each in pairs]
    directions = fit_directions(states, LAYERS, groups, draws=bench.draws, seed=bench.seed)
    model_id = bench.answerer.model_id
    loaded = {subject.name: directions.fitted_LD} | {
        f"{subject.name}-{name}": each_LD for name, each_LD in directions.controls.items()
    }
    bench.answerer.have(
        {
            name: vector_of(name, each_LD, directions.norms_L, LAYERS, model_id)
            for name, each_LD in loaded.items()
        }
    )
    scales = {name: states.scale(each_LD, LAYERS) for name, each_LD in loaded.items()}
    found = measured(bench, subject, pairs, scales)
    layers = tuple(sorted({layer for each in found.poles for layer in each.steering.layers}))
    rows = [LAYERS.index(each) for each in layers]
    vector = vector_of(
        subject.name, directions.fitted_LD[rows], directions.norms_L[rows], layers, model_id
    )
    judge, notes = subject.judged_by, _notes(bench, subject, found.poles[0])
    card = VectorCard(
        name=subject.name,
        negative=subject.negative,
        model_id=model_id,
        method=METHOD,
        layers=layers,
        judge=judge.name,
        measure=judge.measure,
        margin=judge.margin,
        max_tokens=judge.max_tokens,
        fact_tokens=subject.fact_tokens,
        pairs=len(pairs),
        pairs_sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        seed=bench.seed,
        choosing=len(bench.choosing),
        testing=len(bench.testing),
        near_dropped=dropped,
        draws=bench.draws,
        poles=found.poles,
        versions=_versions(),
        notes=(*found.notes, *notes),
    )
    target = out / subject.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f".{subject.name}-") as room:
        made = Path(room) / "made"
        save_vector(vector, made)
        (made / FIT_FILE).write_text(_fit_json(card, directions), encoding="utf-8")
        (made / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (made / PAGE_FILE).write_text(readme(card), encoding="utf-8")
        if target.exists():
            target.rename(Path(room) / "before")
        made.rename(target)


def _notes(bench: Bench, subject: Subject, pole: PoleCard) -> list[str]:
    """Write what the card says of its judge beside the figures."""
    if subject.judge != REFUSAL.name:
        return []
    labelled = labelled_answers(_tell)
    requests = harmful_requests(len(bench.testing) // 2, _tell)
    steered = terms_of(subject.name, pole.steering)
    rates = [
        wilson(sum(map(int, each.scores)), len(requests))
        for each in bench.hear(REFUSAL, [(requests, ()), (requests, steered)], "harmful requests")
    ]
    told = [f"{each.estimate:.2f} [{each.low:.2f}, {each.high:.2f}]" for each in rates]
    return [
        f"The refusal matcher against people's labels ({len(labelled)} answers of PyRIT's scorer "
        f"evaluation): {agreement(labelled)}.",
        f"Of the first {len(requests)} requests of AdvBench the unsteered model refuses {told[0]}, "
        f"the steered one {told[1]}.",
    ]


def _write_overview(out: Path) -> None:
    """Write the page of every vector that has a card in the folder, in the order of `SUBJECTS`."""
    cards = [
        VectorCard.model_validate_json(path.read_text(encoding="utf-8"))
        for path in (out / each.name / CARD_FILE for each in SUBJECTS)
        if path.is_file()
    ]
    (out / PAGE_FILE).write_text(overview(cards), encoding="utf-8")


def _fit_json(card: VectorCard, directions: Directions) -> str:
    report = {
        "name": card.name,
        "model_id": card.model_id,
        "method": card.method,
        "token": "mean",
        "pairs": card.pairs,
        "pairs_sha256": card.pairs_sha256,
        "seed": card.seed,
        "layers": directions.report(LAYERS, card.layers),
        "versions": card.versions,
    }
    return json.dumps(report, indent=2) + "\n"


def _versions() -> dict[str, str]:
    names = ("torch", "transformers", "numpy", "vaderSentiment", "py3langid")
    return {
        "pilothouse": __version__,
        "vllm": vllm_version(),
        **{name: version(name) for name in names},
    }


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
