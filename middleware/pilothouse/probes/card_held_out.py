"""The part of a card that tells how a probe did on texts that fitting never met."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pilothouse.artifacts.manifest import Interval
from pilothouse.probes.report import Evaluation, HeldOutReport, Score, TprReport


def held_out_parts(evaluation: Evaluation) -> list[str]:
    """The sections, as markdown; none where nothing was held out in this way."""
    parts = [_findings(evaluation), _figures(evaluation), _beside(evaluation), _files(evaluation)]
    return [part for part in parts if part]


def _findings(evaluation: Evaluation) -> str:
    if not evaluation.findings:
        return ""
    return "## Findings\n\n" + "\n".join(f"- {each}" for each in evaluation.findings)


def _figures(evaluation: Evaluation) -> str:
    if not evaluation.held_out:
        return ""
    rates = [each.target_fpr for each in evaluation.held_out[0].probe.tprs]
    head = ["test", "kept from the fit as", "texts", "AUROC", "AUPRC"]
    head += [f"TPR at {rate:.1%} FPR" for rate in rates] + ["ECE", "n+ / n-"]
    rows = [
        [
            each.name,
            each.kind,
            each.form,
            _interval(each.probe.auroc),
            _interval(each.probe.auprc),
            *map(_tpr, each.probe.tprs),
            "-" if each.probe.ece is None else f"{each.probe.ece:.3f}",
            f"{each.probe.n_positive} / {each.probe.n_negative}",
        ]
        for each in evaluation.held_out
    ]
    note = (
        "`as written` is what is served. `alike` is a fit of its own: texts in lower case without "
        "final punctuation, in fitting and testing; it is not calibrated. A rate in brackets has "
        "fewer negatives than it would take for one of them to be it. Tests of the same sources "
        "say how well the probe knows these sources; what it does elsewhere, other sources and "
        "files tell."
    )
    return f"## Held out\n\n{note}\n\n{markdown_table(head, rows)}"


def _beside(evaluation: Evaluation) -> str:
    if not evaluation.held_out:
        return ""
    head = ["test", "texts", "baseline", "AUROC", "TPR at 1% FPR", "probe ahead by"]
    rows = [row for each in evaluation.held_out for row in _baselines(each)]
    note = (
        "The last column is the difference of AUROCs over the same resamples of groups; where its "
        "interval holds 0, the probe is not shown to know more than the baseline. Bold is the best "
        "baseline on that very test, which no one could have chosen beforehand."
    )
    return f"## Held out, beside baselines\n\n{note}\n\n{markdown_table(head, rows)}"


def _baselines(report: HeldOutReport) -> Iterator[list[str]]:
    for name, score in report.baselines.items():
        lead = report.leads[name]
        shown = f"**{name}**" if name == report.best_baseline else name
        ahead = f"{lead.estimate:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]"
        yield [report.name, report.form, shown, *_score(score), ahead]


def _files(evaluation: Evaluation) -> str:
    if not evaluation.files:
        return ""
    head = ["file", "use", "rows", "positives", "groups", "repeated", "too long", "sha256"]
    rows = [
        [
            each.name,
            each.use,
            *map(str, (each.rows, each.positives, each.groups, each.repeated, each.too_long)),
            f"`{each.sha256[:12]}`",
        ]
        for each in evaluation.files
    ]
    return "## Files\n\n" + markdown_table(head, rows)


def _score(score: Score) -> list[str]:
    return [_interval(score.auroc), _interval(score.tpr_at_fpr_1_percent)]


def _tpr(report: TprReport) -> str:
    shown = _interval(report.tpr)
    return shown if report.is_supported else f"({shown})"


def _interval(interval: Interval) -> str:
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; bars in cells become slashes, and line breaks spaces."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
