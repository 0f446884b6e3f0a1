"""The steps of a probe's fit: read the texts, choose, fit, calibrate, measure, say what it means.

Shapes: N rows of a part, R rows of a text, L layers, D width of the stream, M rows of a test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.manifest import ReadoutAggregate
from pilothouse.artifacts.probe import Probe, build_probe
from pilothouse.errors import ConfigError
from pilothouse.probes.baseline import shape_features
from pilothouse.probes.calibration import Platt, apply, fit_platt
from pilothouse.probes.dataset import Dataset, Example, dataset_of
from pilothouse.probes.evaluate import split_report
from pilothouse.probes.held_out import DIFFERENCE, held_out_report
from pilothouse.probes.metrics import Floats
from pilothouse.probes.overlap import near_texts
from pilothouse.probes.readout import MeasuredReadout, calibrated_readout, token_calibration
from pilothouse.probes.recipe import ReadoutRecipe, Recipe
from pilothouse.probes.report import (
    Evaluation,
    FileReport,
    FiredReport,
    Form,
    HeldOutReport,
    TestKind,
    TrialReport,
)
from pilothouse.probes.score import Row
from pilothouse.probes.sweep import readout_logits
from pilothouse.probes.threshold import clopper_pearson_upper
from pilothouse.probes.transfer import (
    PROBE,
    Predict,
    Transfer,
    fit_features,
    fit_transfer,
)
from pilothouse.progress import Advance, Phase
from pilothouse.training.activation_cache import Floats32
from pilothouse.training.probe_activations import ActivationReader, Keep
from pilothouse.training.probe_data import LabelledFile
from pilothouse.training.probe_findings import findings_of, remarks_of
from pilothouse.training.probe_material import FORMS, Part, ProbeMaterial
from pilothouse.training.probe_recipe import USUAL_FPRS, ReadoutKind
from pilothouse.training.probe_split import families_of
from pilothouse.types import Scope

CREATED_BY = "pilothouse probe fit"
SAME_SOURCES = "held-out rows"
LENGTH = "length"
LOG_PROBABILITIES_FITTED = 60
"""Fitted rows of each label whose log-probability is asked for: it is one number, and each costs a
second pass."""
LOG_PROBABILITIES_TESTED = 500
"""Rows of a test beyond which its log-probabilities are not asked for."""
MOST_SOURCES = 12
"""Sources that are left out and measured; the largest ones."""
NAMES: Mapping[tuple[Scope, ReadoutKind], str] = {
    ("prompt", "last"): "prompt",
    ("prompt", "mean"): "prompt_mean",
    ("output", "last"): "answer_end",
    ("output", "mean"): "answer_mean",
}


@dataclass(frozen=True, slots=True, eq=False)
class ReadPart:
    """A part's rows, what the engine read of them in each form, and log-probabilities.

    `ends_NRLD` has each text's last token, or its mean and its last.
    """

    part: Part
    ends: Mapping[Form, Sequence[Floats32]]
    log_probabilities_N: Floats

    def dataset(
        self,
        kind: ReadoutKind,
        form: Form,
        layers: Sequence[int],
        scope: Scope,
        families: Sequence[str],
    ) -> Dataset:
        """One token for each row: what a readout of that kind sees of it.

        The mean of a linear row's logits is the row's logit of the mean.
        """
        at = 0 if kind == "mean" else -1
        known = form == "as written"
        return dataset_of(
            [
                Example(
                    hidden_TLD=hidden_RLD[at][None],
                    prompt_tokens=int(scope == "prompt"),
                    label=row.label,
                    group=row.group,
                    family=family,
                    text=row.said(form),
                    mean_log_probability=float(mean) if known else float("nan"),
                )
                for row, hidden_RLD, family, mean in zip(
                    self.part.rows, self.ends[form], families, self.log_probabilities_N, strict=True
                )
            ],
            tuple(layers),
        )


class Fit(NamedTuple):
    """A fitted row with its readout, and every scorer of texts in one form beside it."""

    kind: ReadoutKind
    recipe: Recipe
    transfer: Transfer
    scorers: Mapping[Form, Mapping[str, Predict]]


def run_fit(material: ProbeMaterial, cache: Path, phase: Phase) -> tuple[Probe, Evaluation]:
    """Everything behind the reading of the files.

    Raises:
        ConfigError: texts or options that the model does not go with.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    read = read_parts(material, cache, phase)
    with threadpool_limits(limits=1):
        return _Fitting(material, read, phase).run()


def read_parts(material: ProbeMaterial, cache: Path, phase: Phase) -> dict[str, ReadPart]:
    """What the engine reads of every part, by its use; tests by `test NAME`."""
    recipe = material.recipe
    reader = ActivationReader(
        recipe.model, recipe.model_id, material.layers, material.settings, cache, phase
    )
    parts = {"fit": material.fit, "calibration": material.calibration, "test": material.test}
    parts |= {f"test {name}": each.part for name, each in material.tests.items()}
    keep: Keep = "last" if material.readouts == ("last",) else "ends"
    try:
        wanted = [
            (form, use)
            for form in FORMS
            for use in parts
            if (form, use) != ("alike", "calibration")
        ]
        prompts = [p for form, use in wanted for p in parts[use].prompts[form]]
        rows = iter(reader.hidden("reading texts", prompts, keep))
        ends: dict[str, dict[Form, list[Floats32]]] = {use: {} for use in parts}
        for form, use in wanted:
            ends[use][form] = [next(rows) for _ in parts[use].rows]
        asked = {use: _asked(use, part) for use, part in parts.items()}
        prompts = [parts[use].prompts["as written"][n] for use, ns in asked.items() for n in ns]
        means = iter(reader.log_probabilities("log-probabilities of texts", prompts))
        found: dict[str, Floats] = {}
        for use, part in parts.items():
            found[use] = np.full(len(part.rows), np.nan)
            for n in asked[use]:
                found[use][n] = next(means)
    finally:
        reader.close()
    return {use: ReadPart(part, ends[use], found[use]) for use, part in parts.items()}


def _asked(use: str, part: Part) -> list[int]:
    """Rows whose log-probability is asked for."""
    labels = part.labels
    if use == "calibration" or (use != "fit" and len(labels) > LOG_PROBABILITIES_TESTED):
        return []
    if use != "fit":
        return list(range(len(labels)))
    return sorted(
        n
        for label in (True, False)
        for n in [n for n, each in enumerate(labels) if each is label][:LOG_PROBABILITIES_FITTED]
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Fitting:
    material: ProbeMaterial
    read: Mapping[str, ReadPart]
    phase: Phase

    @property
    def scope(self) -> Scope:
        return "output" if self.material.file.has_answers else "prompt"

    def run(self) -> tuple[Probe, Evaluation]:
        own = self.material.recipe.fit_on
        kinds, layers = self.material.readouts, self.material.layers
        cs = len(self.material.recipe.ridge_cs)
        steps = cs * (len(kinds) * len(layers) + (own == "as written"))
        advance = self.phase("fitting", steps)
        families, everything = self.material.families, self.read["fit"]
        fits = [self._fit(everything, families, kind, own, advance) for kind in kinds]
        best = max(fits, key=lambda each: each.transfer.chosen.objective)
        if own == "as written":
            other = self._fit(everything, families, best.kind, "alike", advance, best)
            best = best._replace(scorers={**best.scorers, "alike": other.scorers["alike"]})
        measured = self._calibrated(best)
        held_out = tuple(self._held_out(best, measured))
        fired = tuple(self._fired(best, measured))
        calibration = self._dataset("calibration", best.kind)
        token = token_calibration(best.transfer.row, calibration)
        [(name, _)] = best.recipe.readouts.items()
        probe = build_probe(
            self.material.recipe.name,
            model_id=self.material.recipe.model_id,
            layers=best.transfer.row.layers,
            weights_LD=best.transfer.row.weights_LD,
            bias=best.transfer.row.bias,
            token_slope=token.slope,
            token_offset=token.offset,
            readouts={name: measured.readout},
            default_readout=name,
            created_by=CREATED_BY,
        )
        evaluation = Evaluation(
            probe=self.material.recipe.name,
            objective=best.recipe.objective,
            chosen=TrialReport.model_validate(best.transfer.chosen._asdict()),
            sweep=tuple(
                TrialReport.model_validate(trial._asdict())
                for fit in fits
                for trial in fit.transfer.trials
            ),
            splits={
                use: split_report(self._dataset(use, best.kind))
                for use in ("fit", "calibration", "test")
            },
            default_readout=name,
            readouts={name: measured.report},
            baselines=held_out[0].baselines,
            left_out_families=(),
            undone_families=(),
            shuffled_labels=False,
            fired=fired,
            held_out=held_out,
            files=tuple(_files(self.material)),
            remarks=tuple(remarks_of(self.material, held_out, measured)),
            findings=tuple(findings_of(self.material, held_out, fired)),
        )
        return probe, evaluation

    def _fit(
        self,
        read: ReadPart,
        families: Sequence[str],
        kind: ReadoutKind,
        form: Form,
        advance: Advance,
        chosen: Fit | None = None,
    ) -> Fit:
        """Fit on a part in one form; layers are those that were chosen, where they were."""
        train = read.dataset(kind, form, self.material.layers, self.scope, families)
        sets = (
            [chosen.transfer.chosen.layers]
            if chosen is not None
            else [(each,) for each in self.material.layers]
        )
        name = NAMES[self.scope, kind]
        recipe = Recipe(
            name=self.material.recipe.name,
            scope=self.scope,
            layer_sets=tuple(sets),
            readouts={name: ReadoutRecipe(scope=self.scope, aggregate=ReadoutAggregate(kind=kind))},
            trainings=("last",),
            ridge_cs=self.material.recipe.ridge_cs,
            target_fprs=self.material.recipe.target_fprs or USUAL_FPRS,
            left_out_families=(),
            seed=self.material.recipe.seed,
        )
        written = np.empty(len(train), dtype=object)
        written[:] = read.part.said("as written")
        transfer = fit_transfer(recipe, train, written, advance)
        transfer = replace(
            transfer,
            chosen=transfer.chosen._replace(training="mean" if kind == "mean" else "last"),
            trials=tuple(
                each._replace(training="mean" if kind == "mean" else "last")
                for each in transfer.trials
            ),
        )
        scorers: dict[Form, Mapping[str, Predict]] = {}
        of_texts: tuple[Form, ...] = (form,) if form == "as written" else FORMS
        for each in of_texts:
            texts = train if each == form else replace(train, texts_N=written)
            scorers[each] = {
                **transfer.scorers[each],
                DIFFERENCE: _difference(train, transfer.row.layers, recipe),
                LENGTH: fit_features(texts, _length),
            }
        return Fit(kind, recipe, transfer, scorers)

    def _dataset(self, use: str, kind: ReadoutKind, form: Form = "as written") -> Dataset:
        read = self.read[use]
        sources = [each.source for each in read.part.rows]
        return read.dataset(kind, form, self.material.layers, self.scope, sources)

    def _calibrated(self, fit: Fit) -> MeasuredReadout:
        [wanted] = fit.recipe.readouts.values()
        return calibrated_readout(
            fit.transfer.row,
            wanted,
            fit.recipe,
            self._dataset("calibration", fit.kind),
            self._dataset("test", fit.kind),
        )

    def _held_out(self, fit: Fit, measured: MeasuredReadout) -> Iterator[HeldOutReport]:
        """Every test in both forms, the same sources' first."""
        readout = measured.readout
        platts = {"as written": Platt(readout.slope, readout.offset, readout.prior)}
        uses: list[tuple[str, str, TestKind, int]] = [("test", SAME_SOURCES, "same sources", 0)]
        uses += [
            (f"test {name}", name, "test file", each.overlapping)
            for name, each in self.material.tests.items()
        ]
        sources = self._left_out_sources()
        advance = self.phase("measuring", 2 * len(uses) + len(sources))
        for use, name, kind, overlapping in uses:
            labels = self.read[use].part.labels
            for form in FORMS:
                if all(labels) or not any(labels):
                    continue  # one label alone: what fires of it is told
                test = self._dataset(use, fit.kind, form)
                yield _report(
                    (name, kind, form),
                    fit.scorers[form],
                    test,
                    platts.get(form),
                    overlapping,
                    fit.recipe.seed,
                )
                advance(1)
        for source in sources:
            report = self._without(source, fit, readout.aggregate)
            if report is not None:
                yield report
            advance(1)

    def _left_out_sources(self) -> list[str]:
        rows = [*self.material.fit.rows, *self.material.calibration.rows, *self.material.test.rows]
        counts = {
            source: sum(each.source == source for each in rows) for source in self.material.sources
        }
        if len({each.source for each in rows}) < 2:
            return []
        return sorted(sorted(counts, key=lambda each: -counts[each])[:MOST_SOURCES])

    def _without(self, source: str, fit: Fit, aggregate: ReadoutAggregate) -> HeldOutReport | None:
        """The same fit without a source, on all rows of it; None where no fit is left."""
        form = self.material.recipe.fit_on
        train = _selected(self.read["fit"], source, inside=False)
        calibration = _selected(self.read["calibration"], source, inside=False)
        parts = [
            _selected(self.read[use], source, inside=True) for use in ("fit", "calibration", "test")
        ]
        tested = _joined(parts)
        near = near_texts(tested.part.said("alike"), train.part.said("alike"))
        tested = _masked(tested, ~near)
        if any(len(set(each.part.labels)) < 2 for each in (train, calibration, tested)):
            return None
        try:
            families, _ = families_of(
                train.part.labels,
                [each.group for each in train.part.rows],
                [each.source for each in train.part.rows],
                fit.recipe.seed,
            )
            refit = self._fit(train, families, fit.kind, form, lambda _: None, fit)
        except ConfigError:
            return None

        def dataset(read: ReadPart) -> Dataset:
            sources = [each.source for each in read.part.rows]
            return read.dataset(fit.kind, "as written", self.material.layers, self.scope, sources)

        known = dataset(calibration)
        logits_N = readout_logits(refit.transfer.row, known, aggregate)
        return _report(
            (source, "source left out", "as written"),
            refit.scorers["as written"],
            dataset(tested),
            fit_platt(logits_N, known.labels_N),
            int(near.sum()),
            fit.recipe.seed,
        )

    def _fired(self, fit: Fit, measured: MeasuredReadout) -> Iterator[FiredReport]:
        readout = measured.readout
        names = {"test": SAME_SOURCES, **{f"test {name}": name for name in self.material.tests}}
        for use, name in names.items():
            test = self._dataset(use, fit.kind)
            logits_M = readout_logits(fit.transfer.row, test, readout.aggregate)
            values_M = apply(logits_M, readout.slope, readout.offset)
            for label in (True, False):
                of_label = values_M[test.labels_N == label]
                for threshold in readout.thresholds if of_label.size else ():
                    fired = int((of_label >= threshold.value).sum())
                    yield FiredReport(
                        name=name,
                        label=label,
                        target_fpr=threshold.target_fpr,
                        fired=fired,
                        n=of_label.size,
                        upper=clopper_pearson_upper(fired, of_label.size),
                    )


def _report(
    about: tuple[str, TestKind, Form],
    scorers: Mapping[str, Predict],
    test: Dataset,
    platt: Platt | None,
    overlapping: int,
    seed: int,
) -> HeldOutReport:
    measured = bool(np.isfinite(test.mean_log_probabilities_N).all())
    scores = {
        name: predict(test)
        for name, predict in scorers.items()
        if measured or name != "mean log-probability"
    }
    values_M = None if platt is None else apply(scores[PROBE], platt.slope, platt.offset)
    name, kind, form = about
    return held_out_report(
        name, kind, form, scores, values_M, test, overlapping=overlapping, seed=seed
    )


def _difference(train: Dataset, layers: tuple[int, ...], recipe: Recipe) -> Predict:
    """A row that is the difference of the labels' means, as they are."""
    [(_, aggregate)] = recipe.competing.items()
    last = train.starts[1:] - 1
    weights_LD = np.stack(
        [
            hidden_ND[train.labels_N].mean(axis=0, dtype=np.float64)
            - hidden_ND[~train.labels_N].mean(axis=0, dtype=np.float64)
            for hidden_ND in (train.hidden_TD(layer)[last] for layer in layers)
        ]
    ).astype(np.float32)
    row = Row(layers, weights_LD, 0.0)
    return lambda dataset: readout_logits(row, dataset, aggregate)


def _length(dataset: Dataset) -> Floats:
    """Letters and words of each text."""
    return shape_features(dataset.texts_N)[:, :2]


def _selected(read: ReadPart, source: str, *, inside: bool) -> ReadPart:
    mask_N = np.array([(each.source == source) is inside for each in read.part.rows], bool)
    return _masked(read, mask_N)


def _masked(read: ReadPart, mask_N: NDArray[np.bool_]) -> ReadPart:
    chosen = np.flatnonzero(mask_N).tolist()
    return ReadPart(
        read.part.select(mask_N),
        {form: [rows[n] for n in chosen] for form, rows in read.ends.items()},
        read.log_probabilities_N[mask_N],
    )


def _joined(parts: Sequence[ReadPart]) -> ReadPart:
    rows = tuple(row for each in parts for row in each.part.rows)
    prompts = {form: tuple(p for each in parts for p in each.part.prompts[form]) for form in FORMS}
    forms = [form for form in FORMS if all(form in each.ends for each in parts)]
    ends = {form: [row for each in parts for row in each.ends[form]] for form in forms}
    return ReadPart(
        Part(rows, prompts), ends, np.concatenate([each.log_probabilities_N for each in parts])
    )


def _files(material: ProbeMaterial) -> Iterator[FileReport]:
    own = Part((*material.fit.rows, *material.calibration.rows, *material.test.rows), {})
    yield _file("fit, calibration, test", material.file, own, material.too_long)
    for name, each in material.tests.items():
        yield _file(f"test {name}", each.file, each.part, each.too_long)


def _file(use: str, file: LabelledFile, part: Part, too_long: int) -> FileReport:
    return FileReport(
        name=file.path.name,
        use=use,
        sha256=file.sha256,
        rows=len(part.rows),
        positives=sum(part.labels),
        groups=len({each.group for each in part.rows}),
        repeated=file.repeated,
        too_long=too_long,
    )
