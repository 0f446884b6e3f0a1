"""README.md of a fitted vector, written from its manifest and report alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pilothouse.contrast.report import CONTROLS, Cell, Figures, FitReport
from pilothouse.model.manifest import Interval, VectorManifest

HEAD = ("vector", "effect", "moved", "perplexity", "choices kept", "KL >=", "facts kept")


def card(manifest: VectorManifest, report: FitReport) -> str:
    """The card as markdown."""
    parts = [
        _head(manifest, report),
        _said("Findings", report.findings, "None."),
        _said("Notes", report.notes, ""),
        _test(report),
        _layers(report),
        _features(report),
        _sweep(report),
        _made(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def figures_row(figures: Figures) -> list[str]:
    """Cells of a table, in the order of `HEAD` without the vector."""
    return [
        f"{figures.effect:+.3g}",
        _share(figures.moved),
        f"{figures.perplexity_ratio:.3g}",
        _share(figures.choices_kept),
        f"{figures.kl:.2g}",
        _share(figures.facts_kept),
    ]


def profile_line(report: FitReport) -> str:
    """The chosen steering as a term of pilothouse.yaml."""
    return (
        f"{{vector: {report.name}, scale: {report.chosen_scale:g}, unit: residual, "
        f"on: {report.on}}}"
    )


def _head(manifest: VectorManifest, report: FitReport) -> str:
    return "\n".join([
        f"# Vector: {report.name}",
        "",
        f"By {report.method} on `{report.model_id}`, layer {report.chosen_layer} at "
        f"`{report.site}`, width {manifest.site_width}. Made by {manifest.created_by}.",
        "",
        f"Digest `{manifest.digest}`",
        "",
        f"Use: `{profile_line(report)}`",
        "",
        "![effect and perplexity over strength](sweep.svg)",
    ])  # fmt: skip


def _said(title: str, lines: Sequence[str], otherwise: str) -> str:
    text = "\n".join(f"- {line}" for line in lines) or otherwise
    return f"## {title}\n\n{text}" if text else ""


def _test(report: FitReport) -> str:
    rows = [[_name(each), *figures_row(each.figures)] for each in report.test.cells]
    over = [
        f"- effect over {control} vectors: {_interval(report.test.effect_over[control])}"
        for control in CONTROLS
    ]
    return "\n".join([
        "## On test pairs",
        "",
        f"Strength {report.chosen_scale:g} of the stream's mean length, `on: {report.on}`; "
        f"{report.parts.test} pairs in {report.parts.test_groups} groups that were neither fitted "
        "nor chosen on. Effect: change of the log-probability of a token, positive less negative, "
        "in nats. Perplexity: steered over not, of " + report.neutral + ". Choices kept: of those "
        "tokens that were the likeliest, the share that still are. KL is a lower bound. Controls "
        "have the vector's length. Intervals are 95%, by bootstrap over groups.",
        "",
        _table(HEAD, rows),
        "",
        f"- effect: {_interval(report.test.effect)}",
        *over,
    ])  # fmt: skip


def _layers(report: FitReport) -> str:
    rows = [
        [
            ("**chosen** " if each.layer == report.chosen_layer else "") + str(each.layer),
            f"{each.length:.4g}",
            f"{each.residual_norm:.4g}",
            _interval(each.bootstrap_cosine),
            _facts(each.facts),
        ]
        for each in report.layers
    ]
    text = "Cosine: refits on resampled groups with the fit; the brackets hold 95% of the refits."
    head = ("layer", "length", "mean length of the stream", "cosine", "of the method")
    return f"## Directions\n\n{text}\n\n{_table(head, rows)}"


def _features(report: FitReport) -> str:
    features = [each for layer in report.layers for each in layer.facts.get("features", ())]
    if not features:
        return ""
    lines = [
        f"{{sae: NAME, feature: {each['feature']}, op: add, value: {each['gap']:.6g}}}"
        for each in features
    ]
    text = "One by one, each by the gap between positives and negatives; NAME as in pilothouse.yaml"
    return f"## As feature edits\n\n{text}:\n\n```yaml\n" + "\n".join(lines) + "\n```"


def _sweep(report: FitReport) -> str:
    rows = [
        [str(each.layer), f"{each.scale:g}", _name(each), *figures_row(each.figures)]
        for each in report.sweep
    ]
    text = (
        f"On {report.parts.choose} other pairs. Chosen: the largest effect at a perplexity of at "
        f"most {report.max_perplexity_ratio:g} times the unsteered."
    )
    return f"## Sweep\n\n{text}\n\n{_table(('layer', 'strength', *HEAD), rows)}"


def _made(report: FitReport) -> str:
    parts = report.parts
    rows = [
        ["pairs (groups) that fitted", f"{parts.fit} ({parts.fit_groups})"],
        ["that chose", f"{parts.choose} ({parts.choose_groups})"],
        ["that tested", f"{parts.test} ({parts.test_groups})"],
        ["token", report.token],
        ["seed", str(report.seed)],
        *([f"sha256 of {name}", each] for name, each in report.data_sha256.items()),
        *([name, each] for name, each in report.versions.items()),
        *(
            [f"chat template's {name}", repr(each)]
            for name, each in sorted(report.chat_template_kwargs.items())
        ),
    ]
    return "## Made of\n\n" + _table(("", ""), rows)


def _facts(facts: dict[str, object]) -> str:
    features = facts.get("features")
    if isinstance(features, list):
        return "; ".join(
            f"feature {each['feature']}" + (f" ({each['label']})" if each["label"] else "")
            + f" gap {each['gap']:.4g}"
            for each in features
        )  # fmt: skip
    return ", ".join(f"{name} {value:.4g}" for name, value in facts.items()) or "-"


def _name(cell: Cell) -> str:
    return cell.kind if cell.kind == "fitted" else f"{cell.kind} {cell.draw}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}%"


def _interval(interval: Interval) -> str:
    return f"{interval.estimate:.4g} [{interval.low:.4g}, {interval.high:.4g}]"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
