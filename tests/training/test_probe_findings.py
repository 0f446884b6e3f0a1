"""What a card says against its probe: each sentence where it is due, and not elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pilothouse.artifacts.manifest import Interval
from pilothouse.probes.report import Figures, FiredReport, HeldOutReport, Score
from pilothouse.training.probe_data import LabelledFile, LabelledText
from pilothouse.training.probe_findings import findings_of
from pilothouse.training.probe_material import Part, ProbeMaterial
from pilothouse.training.probe_recipe import make_recipe


def exactly(value: float) -> Interval:
    return Interval(estimate=value, low=value, high=value)


def held_out(leads: Mapping[str, tuple[float, float]], shape: float = 0.6) -> HeldOutReport:
    """A test in which the probe has 0.9; each baseline's lead is (estimate, low)."""
    found = {name: 0.9 - lead for name, (lead, _) in leads.items()} | {"shape": shape}
    return HeldOutReport(
        name="t",
        kind="test file",
        form="as written",
        probe=Figures(
            auroc=exactly(0.9),
            auprc=exactly(0.9),
            tprs=(),
            ece=0.1,
            n_positive=9,
            n_negative=9,
        ),
        baselines={
            name: Score(
                auroc=exactly(auroc),
                tpr_at_fpr_1_percent=exactly(0.0),
                n_positive=9,
                n_negative=9,
            )
            for name, auroc in found.items()
        },
        leads={
            name: Interval(estimate=lead, low=low, high=lead) for name, (lead, low) in leads.items()
        },
        best_baseline=max(leads, key=lambda name: found[name]),
        overlapping=0,
    )


def material(sources: str = "ab", *, confounded: bool = False) -> ProbeMaterial:
    rows = tuple(
        LabelledText((), None, label, f"{label}{source}", source, 1)
        for source in sources
        for label in (True, False)
        if not confounded or label is (source == "a")
    )
    part = Part(rows, {})
    return ProbeMaterial(
        recipe=make_recipe(name="p", data="a.csv", model="m", model_id="m"),
        settings={},
        layers=(0,),
        readouts=("last",),
        file=LabelledFile(Path("a.csv"), "", rows, 0, ()),
        too_long=0,
        fit=part,
        calibration=part,
        test=part,
        families=(),
        by_source=True,
        sources=(),
        tests={},
        is_chat=True,
    )


AHEAD = {"TF-IDF": (0.2, 0.1), "shape": (0.3, 0.2)}


def test_a_probe_that_is_ahead_of_all_has_no_finding() -> None:
    assert list(findings_of(material(), [held_out(AHEAD)], [])) == []


def test_ahead_of_tfidf_and_not_of_shape_is_said_so() -> None:
    test = held_out({"TF-IDF": (0.2, 0.1), "shape": (0.02, -0.01)}, shape=0.88)
    [finding] = findings_of(material(), [test], [])
    assert "t, as written: ahead of TF-IDF and not of shape (+0.020)" in finding


def test_no_gain_names_the_best_baseline_and_its_interval() -> None:
    test = held_out({"TF-IDF": (0.05, -0.02), "shape": (0.3, 0.2)})
    [finding] = findings_of(material(), [test], [])
    assert finding == "t, as written: no gain over TF-IDF is shown: +0.050 [-0.020, +0.050]."


def test_shape_that_tells_the_labels_apart_is_said_so() -> None:
    test = held_out({"TF-IDF": (0.2, 0.1), "shape": (-0.05, -0.09)}, shape=0.95)
    findings = list(findings_of(material(), [test], []))
    assert any("shape alone has AUROC 0.950" in each for each in findings)


def test_sources_of_one_label_each_are_said_so() -> None:
    findings = list(findings_of(material(confounded=True), [held_out(AHEAD)], []))
    assert findings[0].startswith("Every source has one label alone")
    assert not list(findings_of(material("a"), [held_out(AHEAD)], []))


def test_a_threshold_that_does_not_hold_is_said_so_where_it_is_certain() -> None:
    def fired(count: int, label: bool) -> FiredReport:
        return FiredReport(name="t", label=label, target_fpr=0.05, fired=count, n=100, upper=1.0)

    tests = [held_out(AHEAD)]
    [finding] = findings_of(material(), tests, [fired(20, False)])
    assert "t: at fpr 0.05 it fires on 20 of 100 negatives" in finding
    assert not list(findings_of(material(), tests, [fired(7, False), fired(90, True)]))
