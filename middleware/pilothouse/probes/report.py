"""What `evaluation.json` holds: closed, so that a card never shows a field that nobody checked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pilothouse.artifacts.manifest import Closed, Interval

Form = Literal["alike", "as written"]
"""How texts are written: in lower case without final punctuation, or as they are."""


class Score(Closed):
    """Held-out quality of one scorer."""

    auroc: Interval
    tpr_at_fpr_1_percent: Interval
    n_positive: int = Field(ge=1)
    n_negative: int = Field(ge=1)


class ThresholdReport(Closed):
    """What a threshold, set on calibration data, does on test data; none where there are none."""

    target_fpr: float
    value: float
    length_bucket: int | None
    fpr: Interval | None
    tpr: Interval | None


class ReadoutReport(Closed):
    """One readout on the test data; `unscored` sequences had no token in its scope.

    `unmet_targets` are false positive rates for which the calibration data had too few negatives.
    """

    score: Score
    thresholds: tuple[ThresholdReport, ...]
    unmet_targets: tuple[float, ...]
    unscored: int


class FamilyReport(Closed):
    """One family that neither fitting nor the choice of C saw.

    Where the family has one class only, `paired_with_others` says that the other class is the rest
    of the test data.
    """

    family: str
    paired_with_others: bool
    probe: Score
    baselines: dict[str, Score]


class SplitReport(Closed):
    """How much there was of everything."""

    sequences: int
    positives: int
    groups: int
    tokens: int


class TrialReport(Closed):
    """One line of the sweep."""

    layers: tuple[int, ...]
    training: str
    ridge_c: float
    readout: str
    objective: float


class TransferReport(Closed):
    """One test of sources that fitting never met, under every scorer.

    `form` says how the texts were written: alike in case and final punctuation, or as they are.
    `leads` has the probe's AUROC less each baseline's, over the same resamples. `overlapping`
    counts texts that were left out because a fitted one says nearly the same.
    """

    name: str
    form: Form
    scores: dict[str, Score]
    leads: dict[str, Interval]
    overlapping: int = Field(ge=0)


class FiredReport(Closed):
    """How many texts of a set, all of one label, reach a threshold of the default readout.

    `upper` is the one-sided 95% Clopper-Pearson bound on the share.
    """

    name: str
    label: bool
    target_fpr: float
    fired: int = Field(ge=0)
    n: int = Field(ge=1)
    upper: float


class TprReport(Closed):
    """The share of positives found at a false positive rate.

    `is_supported` says that there were negatives enough for one of them to be the rate.
    """

    target_fpr: float
    tpr: Interval
    is_supported: bool


class Figures(Closed):
    """All that is measured of a probe on one test; `ece` is of its calibrated values, if it has."""

    auroc: Interval
    auprc: Interval
    tprs: tuple[TprReport, ...]
    ece: float | None
    n_positive: int = Field(ge=1)
    n_negative: int = Field(ge=1)


TestKind = Literal["same sources", "source left out", "test file"]


class HeldOutReport(Closed):
    """One test beside every baseline, in one form of the texts.

    `leads` has the probe's AUROC less each baseline's, over the same resamples; `best_baseline` is
    the one that does best on this very test, of those that read no activations. `overlapping`
    texts were left out because a fitted one says nearly the same.
    """

    name: str
    kind: TestKind
    form: Form
    probe: Figures
    baselines: dict[str, Score]
    leads: dict[str, Interval]
    best_baseline: str
    overlapping: int = Field(ge=0)


class FileReport(Closed):
    """A file of labelled texts, and what of it was used.

    `sha256` is of the file; `repeated` rows say what another says, `too_long` ones were left out.
    """

    name: str
    use: str
    sha256: str
    rows: int = Field(ge=0)
    positives: int = Field(ge=0)
    groups: int = Field(ge=0)
    repeated: int = Field(ge=0)
    too_long: int = Field(ge=0)


class SourceReport(Closed):
    """Where texts came from, what they were used for, and what was read.

    `digest` is of the texts, labels and groups that the set was read as; `texts` of them were
    taken, and `too_long` more were left out.
    """

    name: str
    use: str
    wheel: str
    licence: str
    digest: str
    texts: int = Field(ge=0)
    too_long: int = Field(ge=0)


class Evaluation(Closed):
    """The whole evaluation of a probe.

    `transfers`, `fired`, `sources` and `remarks` are of probes that were fitted on some sources
    and measured on others; `held_out`, `files` and `findings` of those that `probe fit` made.
    """

    probe: str
    objective: str
    chosen: TrialReport
    sweep: tuple[TrialReport, ...]
    splits: dict[str, SplitReport]
    default_readout: str
    readouts: dict[str, ReadoutReport]
    baselines: dict[str, Score]
    left_out_families: tuple[FamilyReport, ...]
    undone_families: tuple[str, ...]
    shuffled_labels: bool
    transfers: tuple[TransferReport, ...] = ()
    fired: tuple[FiredReport, ...] = ()
    sources: tuple[SourceReport, ...] = ()
    remarks: tuple[str, ...] = ()
    held_out: tuple[HeldOutReport, ...] = ()
    files: tuple[FileReport, ...] = ()
    findings: tuple[str, ...] = ()
