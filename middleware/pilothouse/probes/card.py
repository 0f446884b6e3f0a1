"""The card of a probe: README.md of its folder, written from manifest and evaluation alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from pilothouse.aggregate import described
from pilothouse.artifacts.folder import complaint, read_manifest
from pilothouse.artifacts.manifest import Interval, ProbeManifest, Readout
from pilothouse.errors import ArtefactError
from pilothouse.probes.card_held_out import held_out_parts
from pilothouse.probes.report import Evaluation, FamilyReport, Score, TransferReport

SWEEP_LINES = 10


def card_of(folder: Path) -> str:
    """The card of an artefact's folder, from its manifest.json and evaluation.json.

    Raises:
        ArtefactError: either is missing or malformed.
    """
    manifest, _ = read_manifest(folder, ProbeManifest, "probe")
    place = folder / "evaluation.json"
    try:
        evaluation = Evaluation.model_validate(json.loads(place.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise ArtefactError(
            complaint(place, "content", first, "an evaluation", "evaluate the probe again")
        ) from error
    return render_card(manifest, evaluation)


def render_card(manifest: ProbeManifest, evaluation: Evaluation) -> str:
    """The card as markdown. All intervals are 95%."""
    parts = [
        _head(manifest, evaluation),
        _readouts(manifest, evaluation),
        _remarks(evaluation),
        *held_out_parts(evaluation),
        _where(manifest),
        _comparison(evaluation),
        _transfers(evaluation),
        _fired(evaluation),
        _families(evaluation),
        _thresholds(evaluation),
        _data(evaluation),
        _sources(evaluation),
        _sweep(evaluation),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(manifest: ProbeManifest, evaluation: Evaluation) -> str:
    layers = ", ".join(str(each) for each in manifest.layers)
    lines = [
        f"# Probe: {manifest.name}",
        "",
        f"A linear probe on `{manifest.model_id}`, layer {layers} at `{manifest.site}`, "
        f"width {manifest.d_model}. Made by {manifest.created_by}.",
        "",
        f"Digest `{manifest.digest}`",
    ]
    if evaluation.shuffled_labels:
        lines += ["", "**A control: fitted on shuffled labels. It must know nothing.**"]
    return "\n".join(lines)


def _readouts(manifest: ProbeManifest, evaluation: Evaluation) -> str:
    rows = []
    for name, readout in manifest.readouts.items():
        report = evaluation.readouts[name]
        shown = f"**{name}**" if name == manifest.default_readout else name
        rows.append(
            [shown, readout.scope, _aggregate(readout), *_score(report.score), str(report.unscored)]
        )
    head = ["readout", "scope", "aggregate", "AUROC", "TPR at 1% FPR", "n+ / n-", "unscored"]
    note = "The default is bold. Test data, 95% intervals by bootstrap over groups."
    return f"## Readouts\n\n{note}\n\n{_table(head, rows)}"


def _where(manifest: ProbeManifest) -> str:
    """Where readouts of one position stand in a prompt, and what they do where none is given."""
    anchored = [
        f"`{name}`"
        for name, each in manifest.readouts.items()
        if each.scope == "prompt" and each.aggregate.kind == "last"
    ]
    if not anchored:
        return ""
    return (
        f"## Where it reads\n\n{', '.join(anchored)}: where an assistant's turn opens, at every "
        "such place of the prompt and of the output, the largest value counting. Text behind an "
        "opening is not read, and a turn that a policy refused is left out. Where a prompt ends "
        "without an open turn of the assistant (raw text, a prompt that was cut) its last token is "
        "read too; the figures here are of prompts that end with the opening, and say nothing of "
        "that case."
    )


def _comparison(evaluation: Evaluation) -> str:
    if evaluation.held_out:  # they have the same and more
        return ""
    default = evaluation.readouts[evaluation.default_readout]
    rows = [["probe", *_score(default.score)]]
    rows += [[name, *_score(score)] for name, score in evaluation.baselines.items()]
    return "## Beside baselines\n\n" + _table(["scorer", "AUROC", "TPR at 1% FPR", "n+ / n-"], rows)


def _families(evaluation: Evaluation) -> str:
    if not evaluation.left_out_families and not evaluation.undone_families:
        return ""
    names = sorted({name for each in evaluation.left_out_families for name in each.baselines})
    rows = [_family(each, names) for each in evaluation.left_out_families]
    head = ["family left out", "n+ / n-", "probe AUROC", "probe TPR at 1% FPR"]
    text = (
        "## Families left out\n\nFitted without the family, measured on it. Layers, training and "
        "readout were chosen with all families; C was not. A star marks a family of one class, "
        "measured against the other class of all families.\n\n"
    )
    text += _table(head + [f"{name} AUROC" for name in names], rows)
    if evaluation.undone_families:
        undone = ", ".join(evaluation.undone_families)
        text += f"\n\nNot measured, since a class would be missing: {undone}."
    return text


def _family(report: FamilyReport, names: Sequence[str]) -> list[str]:
    auroc, tpr, counts = _score(report.probe)
    others = [
        _interval(report.baselines[name].auroc) if name in report.baselines else "-"
        for name in names
    ]
    shown = report.family + (" *" if report.paired_with_others else "")
    return [shown, counts, auroc, tpr, *others]


def _thresholds(evaluation: Evaluation) -> str:
    rows, unmet = [], []
    for name, report in evaluation.readouts.items():
        for each in report.thresholds:
            bucket = "any" if each.length_bucket is None else f"<= {each.length_bucket}"
            shares = [_interval(share) if share else "-" for share in (each.fpr, each.tpr)]
            rows.append([name, f"{each.target_fpr:g}", bucket, f"{each.value:.6g}", *shares])
        unmet += [f"{name} at {target:g}" for target in report.unmet_targets]
    text = (
        "## Thresholds\n\nSet on the calibration data's negatives: the smallest value whose "
        "one-sided 95% bound on the false positive rate is at most the target. Measured on test "
        "data.\n\n"
    )
    text += _table(["readout", "target FPR", "tokens", "value", "test FPR", "test TPR"], rows)
    if unmet:
        text += f"\n\nToo few negatives for: {', '.join(unmet)}."
    return text


def _data(evaluation: Evaluation) -> str:
    rows = [
        [name, str(each.sequences), str(each.positives), str(each.groups), str(each.tokens)]
        for name, each in evaluation.splits.items()
    ]
    head = ["split", "sequences", "positives", "groups", "tokens"]
    return "## Data\n\nNo group is in two splits.\n\n" + _table(head, rows)


def _sweep(evaluation: Evaluation) -> str:
    ranked = sorted(evaluation.sweep, key=lambda each: -each.objective)[:SWEEP_LINES]
    if evaluation.chosen not in ranked:
        ranked.append(evaluation.chosen)
    rows = [
        [
            ("**chosen** " if each == evaluation.chosen else "")
            + ", ".join(str(layer) for layer in each.layers),
            each.training,
            f"{each.ridge_c:g}",
            each.readout,
            f"{each.objective:.4f}",
        ]
        for each in ranked
    ]
    head = ["layers", "training", "C", "readout", evaluation.objective.replace("_", " ")]
    text = f"## Sweep\n\nThe best of {len(evaluation.sweep)} trials on validation groups.\n\n"
    return text + _table(head, rows)


def _remarks(evaluation: Evaluation) -> str:
    if not evaluation.remarks:
        return ""
    return "## What to know\n\n" + "\n".join(f"- {each}" for each in evaluation.remarks)


def _transfers(evaluation: Evaluation) -> str:
    """Each test with a line for each scorer, and how far the probe is ahead of it."""
    if not evaluation.transfers:
        return ""
    rows = [row for each in evaluation.transfers for row in _transfer(each)]
    head = ["test", "texts", "scorer", "AUROC", "TPR at 1% FPR", "n+ / n-", "probe ahead by"]
    note = (
        "Fitted on some sources, measured on others. `alike` texts are in lower case and without "
        "final punctuation on both sides, as the fitted ones are; `as written` ones are what is "
        "served. The last column is the difference of AUROCs over the same resamples of groups."
    )
    return f"## Other sources\n\n{note}\n\n{_table(head, rows)}"


def _transfer(report: TransferReport) -> Iterator[list[str]]:
    for name, score in report.scores.items():
        lead = report.leads.get(name)
        ahead = "" if lead is None else f"{lead.estimate:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]"
        yield [report.name, report.form, name, *_score(score), ahead]


def _fired(evaluation: Evaluation) -> str:
    if not evaluation.fired:
        return ""
    rows = [
        [
            each.name,
            "positive" if each.label else "negative",
            f"{each.target_fpr:g}",
            f"{each.fired} of {each.n}",
            f"{each.fired / each.n:.3f}",
            f"{each.upper:.3f}",
        ]
        for each in evaluation.fired
    ]
    head = ["set", "label", "at fpr", "fired", "share", "95% bound"]
    note = (
        "Test texts as written, by set, at the thresholds of the default readout. The bound is "
        "one-sided (Clopper-Pearson)."
    )
    return f"## What fires\n\n{note}\n\n{_table(head, rows)}"


def _sources(evaluation: Evaluation) -> str:
    if not evaluation.sources:
        return ""
    rows = [
        [
            each.name,
            each.use,
            str(each.texts),
            str(each.too_long),
            each.wheel,
            each.licence,
            f"`{each.digest[:12]}`",
        ]
        for each in evaluation.sources
    ]
    head = ["set", "use", "texts", "too long", "wheel", "licence", "digest"]
    overlapping = sum(each.overlapping for each in evaluation.transfers if each.form == "alike")
    note = (
        "Texts are read out of pinned wheels, which are never imported, and are not kept here. "
        f"Tests left out {overlapping} texts, counted test by test: a fitted one says nearly the "
        "same."
    )
    return f"## Sources\n\n{note}\n\n{_table(head, rows)}"


def _aggregate(readout: Readout) -> str:
    return described(readout.aggregate.spec)


def _score(score: Score) -> Iterator[str]:
    yield _interval(score.auroc)
    yield _interval(score.tpr_at_fpr_1_percent)
    yield f"{score.n_positive} / {score.n_negative}"


def _interval(interval: Interval) -> str:
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
