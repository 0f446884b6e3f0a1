"""What the figures of a probe mean, in sentences: remarks, and findings that speak against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pilothouse.probes.metrics import wilson
from pilothouse.probes.readout import MeasuredReadout
from pilothouse.probes.report import FiredReport, HeldOutReport
from pilothouse.probes.threshold import negatives_needed
from pilothouse.probes.transfer import SHUFFLED
from pilothouse.training.probe_material import ProbeMaterial

SHAPE, TFIDF = "shape", "TF-IDF"
SHAPE_TELLS = 0.9
"""AUROC of shape from which labels are told by how texts are written."""


def remarks_of(
    material: ProbeMaterial, held_out: Sequence[HeldOutReport], measured: MeasuredReadout
) -> Iterator[str]:
    """What a reader should know of how the figures came about."""
    if all(each.kind == "same sources" for each in held_out):
        yield (
            "**Every figure here is of rows from the sources that were fitted on. Such figures "
            "prove little**: sources differ in ways that have nothing to do with the label, and a "
            "probe may read those. Give a `source` column with two sources that have both labels, "
            "or a file of another source by --test NAME=FILE."
        )
    chosen_by = "sources" if material.by_source else "folds of groups"
    yield f"Layer and C are those that did best on {chosen_by} left out of the fit in turn."
    if material.recipe.fit_on == "alike":
        yield "Fitted on texts in lower case without final punctuation, calibrated as written."
    if not material.is_chat:
        yield "The model has no chat template: texts were read as they stand."
    negatives = sum(not each for each in material.calibration.labels)
    for target in measured.report.unmet_targets:
        yield (
            f"No threshold at fpr {target:g}: it needs {negatives_needed(target)} negatives to "
            f"calibrate on, and there were {negatives}."
        )
    controls = [(each, each.baselines[SHUFFLED].auroc) for each in held_out]
    strayed = [
        f"{control.estimate:.3f} on {each.name}, {each.form}"
        for each, control in controls
        if not control.low <= 0.5 <= control.high
    ]
    if strayed:
        yield (
            f"The control has {'; '.join(strayed)}: its labels were dealt out once, and intervals "
            "here are of test rows alone. A lead is to be read against that too."
        )


def findings_of(
    material: ProbeMaterial, held_out: Sequence[HeldOutReport], fired: Sequence[FiredReport]
) -> Iterator[str]:
    """What should keep a reader from enforcing anything."""
    sources = {each.source for each in material.fit.rows}
    labels = {(each.source, each.label) for each in material.fit.rows}
    if len(sources) > 1 and len(labels) == len(sources):
        yield (
            "Every source has one label alone: nothing here can tell a probe of the label from a "
            "probe of the source."
        )
    for each in held_out:
        yield from _no_gain(each)
    first = held_out[0]
    if first.baselines[SHAPE].auroc.estimate >= SHAPE_TELLS:
        yield (
            f"How texts are written tells the labels apart: shape alone has AUROC "
            f"{first.baselines[SHAPE].auroc.estimate:.3f}. Label texts that are written alike, or "
            "fit with --fit-on alike."
        )
    for test in fired:
        share = wilson(test.fired, test.n)
        if not test.label and share.low > test.target_fpr:
            yield (
                f"{test.name}: at fpr {test.target_fpr:g} it fires on {test.fired} of {test.n} "
                "negatives: the threshold does not hold there."
            )


def _no_gain(report: HeldOutReport) -> Iterator[str]:
    best, where = report.best_baseline, f"{report.name}, {report.form}"
    leads = report.leads
    if leads[TFIDF].low > 0 and leads[SHAPE].low <= 0:
        yield (
            f"{where}: ahead of TF-IDF and not of shape ({_signed(leads[SHAPE].estimate)}): it "
            "may know no more than how texts are written."
        )
    elif leads[best].low <= 0:
        yield (
            f"{where}: no gain over {best} is shown: "
            f"{_signed(leads[best].estimate)} [{_signed(leads[best].low)}, "
            f"{_signed(leads[best].high)}]."
        )


def _signed(number: float) -> str:
    return f"{number:+.3f}"
