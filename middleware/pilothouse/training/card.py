"""README.md of a fitted vector, written from its manifest and report alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pilothouse.artifacts.manifest import Interval, VectorManifest
from pilothouse.training.report import CONTROLS, Cell, Figures, FitReport
from pilothouse.training.selection import ranks

HEAD = ("vector", "effect", "moved", "perplexity", "choices kept", "KL >=", "facts kept")


def card(manifest: VectorManifest, report: FitReport) -> str:
    """Write the card as markdown."""
    parts = [
        _head(manifest, report),
        _said("Findings", report.findings, "None."),
        _said("Notes", report.notes, ""),
        _test(report),
        _layers(report),
        _features(report),
        _screen(report),
        _sweep(report),
        _made(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def figures_row(figures: Figures) -> list[str]:
    """Return the cells of a table's row, in the order of `HEAD` without the vector."""
    return [
        f"{figures.effect:+.3g}",
        _share(figures.moved),
        f"{figures.perplexity_ratio:.3g}",
        _share(figures.choices_kept),
        f"{figures.kl:.2g}",
        _share(figures.facts_kept),
    ]


def profile_line(report: FitReport) -> str:
    """Return the chosen steering as a term of pilothouse.yaml."""
    return (
        f"{{vector: {report.name}, scale: {report.chosen_scale:g}, unit: residual, "
        f"on: {report.on}}}"
    )


def _head(manifest: VectorManifest, report: FitReport) -> str:
    return "\n".join(
        [
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
        ]
    )


def _said(title: str, lines: Sequence[str], otherwise: str) -> str:
    text = "\n".join(f"- {line}" for line in lines) or otherwise
    return f"## {title}\n\n{text}" if text else ""


def _test(report: FitReport) -> str:
    rows = [
        [_name(each), str(each.layer), *figures_row(each.figures)] for each in report.test.cells
    ]
    over = [
        f"- effect over {control} vectors: {_interval(report.test.effect_over[control])}"
        for control in CONTROLS
    ]
    return "\n".join(
        [
            "## On test pairs",
            "",
            f"Strength {report.chosen_scale:g} of the stream's mean length, `on: {report.on}`; "
            f"{report.parts.test} pairs in {report.parts.test_groups} groups that were neither "
            "fitted nor chosen on. Effect: change of the log-probability of a token, positive less "
            "negative, in nats. Perplexity: steered over not, of "
            + report.neutral
            + ". Choices kept: of those "
            "tokens that were the likeliest, the share that still are. KL is a lower bound. "
            "Intervals are 95%, by bootstrap over groups.",
            "",
            _controls(report),
            "",
            _table((HEAD[0], "layer", *HEAD[1:]), rows),
            "",
            f"- effect: {_interval(report.test.effect)}",
            *over,
        ]
    )


def _controls(report: FitReport) -> str:
    """Say what the controls are, and what was free in them."""
    text = (
        "Controls have the vector's length and strength. Random: a direction that nobody fitted, "
        "which shows what any edit of this size does. Shuffled: what the method makes of the same "
        "states dealt out anew, which shows what it makes of nothing. "
    )
    if report.search.kind == "full":
        return text + "All are at the chosen layer."
    layers = ", ".join(str(each.layer) for each in report.layers)
    return text + (
        f"Each took, of the searched layers ({layers}), the one at which it did most on the pairs "
        "that chose, as the vector did: else a vector that was picked for its effect would stand "
        "beside controls that were not, and luck would look like content."
    )


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
    if report.search.kind == "staged":
        text += " Of the layers that were searched."
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


def _screen(report: FitReport) -> str:
    search = report.search
    if search.kind == "full":
        return ""
    apart = ranks(
        -math.inf if each.separation is None else each.separation for each in search.layers
    )
    rows = [
        [
            str(each.layer),
            "-" if each.separation is None else f"{each.separation:.3g} ({rank})",
            "-" if each.screened is None else f"{each.screened.effect:+.3g}",
            "-" if each.screened is None else f"{each.screened.perplexity_ratio:.3g}",
            "-" if each.reach is None else f"{each.reach:+.3g}",
            each.why,
        ]
        for each, rank in zip(search.layers, apart, strict=True)
    ]
    text = (
        f"Strength {search.screen_scale:g}, {search.screen_pairs} of the {report.parts.choose} "
        f"pairs that choose and {search.screen_neutral} neutral texts. Apart: d' of the sides of "
        "these pairs along the direction (rank), which ranks layers only where not all can be "
        "screened. Reach: about the effect where fluency ends, if effects grow with the strength "
        "and the logarithm of perplexity with its square; the largest were searched. No test pair "
        "was looked at."
    )
    head = ("layer", "apart", "effect", "perplexity", "reach", "what became of it")
    return f"## Screen\n\n{text}\n\n{_table(head, rows)}"


def _sweep(report: FitReport) -> str:
    rows = [
        [str(each.layer), f"{each.scale:g}", _name(each), *figures_row(each.figures)]
        for each in report.sweep
    ]
    search = report.search
    pairs = report.parts.choose if search.kind == "full" else search.search_pairs
    text = (
        f"On {pairs} of the {report.parts.choose} pairs that choose. Chosen: the largest effect at "
        f"a perplexity of at most {report.max_perplexity_ratio:g} times the unsteered."
    )
    if search.kind == "staged":
        text += " In the order in which places were tried."
    return f"## Sweep\n\n{text}\n\n{_table(('layer', 'strength', *HEAD), rows)}"


def _made(report: FitReport) -> str:
    parts = report.parts
    rows = [
        ["pairs (groups) that fitted", f"{parts.fit} ({parts.fit_groups})"],
        ["that chose", f"{parts.choose} ({parts.choose_groups})"],
        ["that tested", f"{parts.test} ({parts.test_groups})"],
        ["token", report.token],
        ["seed", str(report.seed)],
        ["dtype", report.dtype or "not taken down"],
        ["texts and computed tokens", _work(report)],
        *([f"sha256 of {name}", each] for name, each in report.data_sha256.items()),
        *([name, each] for name, each in report.versions.items()),
        *(
            [f"chat template's {name}", repr(each)]
            for name, each in sorted(report.chat_template_kwargs.items())
        ),
    ]
    return "## Made of\n\n" + _table(("", ""), rows)


def _work(report: FitReport) -> str:
    done = [each for each in report.stages if each.texts]
    return "; ".join(f"{each.name} {each.texts} and {each.tokens}" for each in done) or "-"


def _facts(facts: dict[str, object]) -> str:
    features = facts.get("features")
    if isinstance(features, list):
        return "; ".join(
            f"feature {each['feature']}"
            + (f" ({each['label']})" if each["label"] else "")
            + f" gap {each['gap']:.4g}"
            for each in features
        )
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
