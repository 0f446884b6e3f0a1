"""Makes and measures the SAE step by step; what a step made is kept in the cache folder."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pilothouse import __version__
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.saelens import WEIGHTS_FILE
from pilothouse.config import SaeRef
from pilothouse.demo.cache import Tell
from pilothouse.demo.questions import open_questions
from pilothouse.demo.result_cache import digest_of_parts
from pilothouse.demo.sae.concepts import CONCEPTS
from pilothouse.demo.sae.edits import SCREENED, TESTED, Editor, Questions
from pilothouse.demo.sae.feature_answers import FeatureAnswerer
from pilothouse.demo.sae.labels import Label, by_lot, detected, labels_of
from pilothouse.demo.sae.lines import Line, all_lines
from pilothouse.demo.sae.recipe import NAME, Recipe
from pilothouse.demo.sae.reconstruction import LOSS_LINES, explained, losses
from pilothouse.demo.sae.sae_card import (
    EditCard,
    LabelCard,
    Reconstruction,
    SaeCard,
    SourceUse,
)
from pilothouse.demo.sae.sources import CHATS, SOURCES
from pilothouse.demo.sae.stream import Learnt, captured, codes_of
from pilothouse.demo.sae.training import trained
from pilothouse.demo.wheels import WHEELS, digest_of
from pilothouse.engine.vllm.version import vllm_version
from pilothouse.progress import Phase


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything is read, asked and tested."""

    one_in: int = 1
    """Texts are taken one in so many."""
    choosing: int = 8
    testing: int = 102
    draws: int = 3
    tested: int = TESTED
    """How many edits are tested; none is tried where it is 0."""
    loss_lines: int = LOSS_LINES


@dataclass(frozen=True, slots=True)
class Made:
    """The SAE's folder in the cache, without labels, and every figure."""

    folder: Path
    card: SaeCard


def make_sae(
    model: Path,
    room: Path,
    recipe: Recipe,
    sizes: Sizes,
    answerer: FeatureAnswerer,
    phase: Phase,
    tell: Tell,
) -> Made:
    """Read, train, label, test and edit.

    Args:
        model: the model's folder.
        room: where steps are kept.
        recipe: of the SAE.
        sizes: of the measurement.
        answerer: has taps at the recipe's layer, with features.
        phase: told how far it is.
        tell: takes a line for the user.

    Raises:
        PilothouseError: texts, model or SAELens cannot be had.
    """
    with _timed("chats", tell):
        lines = all_lines(model, answerer, phase, tell, one_in=sizes.one_in)
    with _timed("stream", tell):
        hidden_RD = captured(model, recipe.layer, lines, room, phase)
    learnt = Learnt(hidden_RD, lines)
    training_R = ~learnt.rows.is_held_out_R
    tell(f"{training_R.sum()} tokens to train on, {(~training_R).sum()} held out")
    folder = room / f"{NAME}-{_digest(recipe, lines)}"
    with _timed("training", tell):
        codes_RM = trained(learnt.hidden_RD[training_R], recipe, model.name, folder, phase)
    norm = round(learnt.average_norm, 2)
    reference = SaeRef(path=folder, average_norm=norm)
    sae = answerer.have_sae(NAME, reference)
    with _timed("reconstruction", tell):
        reconstruction = _reconstruction(sae, learnt, model, recipe, sizes, room, phase)
    with _timed("labels", tell):
        rows = learnt.rows.at(training_R)
        advance = phase("labels", len(CONCEPTS))
        labels = labels_of(codes_RM, lines, rows, CONCEPTS, advance)
        tell(f"{len(labels)} labels")
        held_RM = codes_of(sae, learnt.hidden_RD[~training_R], phase)
        label_cards = _tested_labels(held_RM, learnt, labels, recipe.seed, phase)
    with _timed("edits", tell):
        editor = _editor(answerer, sae, sizes, recipe.seed, phase, tell)
        edits = _edits(editor, labels, held_RM, sizes.tested, recipe.seed)
    card = SaeCard(
        name=NAME,
        model_id=model.name,
        recipe=recipe,
        weights_sha256=digest_of(folder / WEIGHTS_FILE),
        weights_bytes=(folder / WEIGHTS_FILE).stat().st_size,
        average_norm=norm,
        training_tokens=int(training_R.sum()),
        left_out_tokens=learnt.left_out,
        sources=tuple(_sources(learnt)),
        reconstruction=reconstruction,
        labels=label_cards,
        choosing=sizes.choosing,
        testing=sizes.testing,
        draws=sizes.draws,
        screened=min(len(labels), SCREENED) if sizes.tested else 0,
        edits=tuple(edits),
        seed=recipe.seed,
        versions=_versions(),
    )
    return Made(folder, card)


@contextmanager
def _timed(step: str, tell: Tell) -> Iterator[None]:
    """Tell how long a step took in this run, which may have found it done."""
    started = time.monotonic()
    yield
    tell(f"{step}: {(time.monotonic() - started) / 60:.1f} minutes")


def _digest(recipe: Recipe, lines: Sequence[Line]) -> str:
    ids = [(each.ids, each.first, each.is_held_out) for each in lines]
    return digest_of_parts(recipe.model_dump(mode="json"), ids)[:16]


def _reconstruction(
    sae: Sae, learnt: Learnt, model: Path, recipe: Recipe, sizes: Sizes, room: Path, phase: Phase
) -> Reconstruction:
    """Return the file of an SAE's figures, which are kept by its digest."""
    place = room / f"reconstruction-{sae.digest[:16]}-{sizes.loss_lines}.json"
    if place.is_file():
        return Reconstruction.model_validate_json(place.read_text(encoding="utf-8"))
    found = explained(sae, learnt, phase)
    lost = losses(sae, learnt, found.mean_D, model, phase, most=sizes.loss_lines)
    loss, built, mean = lost.per_token
    assert sae.max_act_M is not None
    figures = Reconstruction(
        texts=len(found.table_N4),
        tokens=int(found.table_N4[:, 0].sum()),
        l0=found.l0(recipe.seed),
        explained_variance=found.explained_variance(recipe.seed),
        dead=int((found.fired_M == 0).sum()),
        dead_in_training=int((sae.max_act_M == 0).sum()),
        loss_texts=len(lost.table_N4),
        loss_tokens=int(lost.table_N4[:, 0].sum()),
        loss=loss,
        loss_reconstructed=built,
        loss_mean=mean,
        loss_recovered=lost.recovered(recipe.seed),
    )
    place.write_text(figures.model_dump_json(indent=1), encoding="utf-8")
    return figures


def _tested_labels(
    held_RM: Any, learnt: Learnt, labels: Sequence[Label], seed: int, phase: Phase
) -> tuple[LabelCard, ...]:
    rows = learnt.rows.at(learnt.rows.is_held_out_R)
    labelled = [each.feature for each in labels]
    advance = phase("labels on held-out text", len(labels))
    cards = []
    for each in labels:
        found = detected(held_RM, learnt.lines, rows, each, CONCEPTS[each.name], labelled, seed)
        cards.append(
            LabelCard(
                feature=each.feature,
                name=each.name,
                reach=each.reach,
                share=each.share,
                training_auroc=each.auroc,
                strongest=each.strongest,
                detection=found,
            )
        )
        advance(1)
    return tuple(cards)


def _editor(
    answerer: FeatureAnswerer, sae: Sae, sizes: Sizes, seed: int, phase: Phase, tell: Tell
) -> Editor:
    found = open_questions((), choosing=sizes.choosing, testing=sizes.testing, seed=seed, tell=tell)
    questions = Questions(found.choosing, found.testing, sizes.draws)
    return Editor(answerer, sae, questions, seed, phase)


def _edits(
    editor: Editor, labels: Sequence[Label], held_RM: Any, most: int, seed: int
) -> list[EditCard]:
    if not labels or not most:
        return []
    tried = {each.feature: CONCEPTS[each.name] for each in labels[:SCREENED]}
    candidates = editor.screened(tried)[:most]
    labelled = [each.feature for each in labels]
    lots = [by_lot(held_RM, each.feature, labelled, seed) for each in candidates]
    return editor.tested(candidates, lots)


def _sources(learnt: Learnt) -> Iterator[SourceUse]:
    tokens: Counter[tuple[str, bool]] = Counter()
    for at, count in zip(*np.unique(learnt.rows.line_R, return_counts=True), strict=True):
        line = learnt.lines[at]
        tokens[line.source, line.is_held_out] += int(count)
    texts = Counter((each.source, each.is_held_out) for each in learnt.lines)
    for source in (*SOURCES, *CHATS):
        name = source.texts.name
        wheel = WHEELS[source.texts.wheel]
        yield SourceUse(
            name=name,
            is_asked=source in CHATS,
            wheel=str(wheel),
            wheel_sha256=wheel.sha256,
            licence=source.texts.licence,
            upstream=source.upstream,
            digest=source.texts.digest,
            texts=texts[name, False],
            tokens=tokens[name, False],
            held_out_texts=texts[name, True],
            held_out_tokens=tokens[name, True],
        )


def _versions() -> dict[str, str]:
    names = ("sae-lens", "torch", "transformers", "numpy", "scipy")
    return {
        "pilothouse": __version__,
        "vllm": vllm_version(),
        **{name: version(name) for name in names},
    }
