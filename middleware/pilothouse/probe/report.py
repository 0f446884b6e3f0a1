"""What `evaluation.json` holds: closed, so that a card never shows a field that nobody checked."""

from __future__ import annotations

from pydantic import Field

from pilothouse.model.manifest import Closed, Interval


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


class Evaluation(Closed):
    """The whole evaluation of a probe."""

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
