"""`pilothouse probe fit`: a labelled file becomes a probe that a policy can use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from pilothouse.artifacts.manifest import Interval
from pilothouse.cli.common import (
    INTERRUPTED,
    ChatTemplateKwargs,
    check_named_out,
    exits,
    layer_numbers,
    template_kwargs,
)
from pilothouse.errors import ConfigError
from pilothouse.probes.report import Evaluation, HeldOutReport
from pilothouse.progress import Phase, progress, waiting
from pilothouse.training.probe_fit import FittedProbe, prepare_probe_fit
from pilothouse.training.probe_recipe import MAX_TOKENS, USUAL_FPRS, make_recipe, recipe_fields

KEPT = "What was read so far is kept; the same command goes on from there."
FORMS = {"written": "as written", "alike": "alike"}
EPILOG = """Examples:

pilothouse probe fit texts.csv --model my-model --out probes/misuse

pilothouse probe fit texts.jsonl --model my-model --out probes/misuse --column text=prompt
--column label=kind --positive attack --test other=elsewhere.csv --fpr 0.01 --dtype float32

pilothouse probe fit --recipe probes/misuse/recipe.json --out probes/again

What follows -- goes to vLLM. Exit 1 is a probe that was made and has findings."""

Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="Where a field stands: text=prompt. Repeat for more."),
]
Positive = Annotated[
    list[str] | None,
    typer.Option(help="A label that means a positive; else true, yes, 1, positive. Repeat."),
]
Negative = Annotated[
    list[str] | None,
    typer.Option(help="One that means a negative; with --positive alone, all others. Repeat."),
]


def fit_probe(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty. Names the probe.")],
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="Labelled texts, JSON lines or .csv: docs/guides/fit-a-probe.md."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model's folder or name, as for `serve`.")
    ] = None,
    column: Columns = None,
    positive: Positive = None,
    negative: Negative = None,
    test: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE: texts of another source to measure on. Repeat for more."),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Numbers and ranges to choose from: 4,8-12; about ten, if not said."),
    ] = None,
    readouts: Annotated[
        str | None,
        typer.Option(help="last, mean or both with a comma: what a text shows; last of prompts."),
    ] = None,
    fit_on: Annotated[
        str | None, typer.Option(help="Texts as written, or alike in case and final punctuation.")
    ] = None,
    fpr: Annotated[
        list[float] | None,
        typer.Option(
            help="A false positive rate to set a threshold for; refused where the negatives are "
            "too few. Repeat for more.",
            show_default=", ".join(f"{each:g}" for each in USUAL_FPRS) + " as far as they go",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Longer texts are left out and counted.", show_default=str(MAX_TOKENS)),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe.json: what it says, where no option does.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="As for `serve`; if not said, what the processor is fast in.")
    ] = None,
    chat_template_kwargs: ChatTemplateKwargs = None,
    model_id: Annotated[
        str | None, typer.Option(help="The name artefacts know the model by; else its folder's.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of activations; else Pilothouse's cache.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of splits, controls and resamples.", show_default="0")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the evaluation as JSON.")] = False,
) -> None:
    """Fit a probe to labelled texts, calibrate it, and measure it beside baselines."""
    with exits():
        from pilothouse.training.engine_settings import engine_settings

        check_named_out(out)
        words = list(context.args)
        if data is not None and str(data).startswith("--"):
            data, words = None, [str(data), *words]  # the first of vLLM's flags
        fields = recipe_fields(recipe) if recipe is not None else {}
        fields |= {
            name: value
            for name, value in {
                "data": data,
                "model": model,
                "model_id": model_id,
                "columns": pairs("--column", column) if column else None,
                "positive": positive or None,
                "negative": negative or None,
                "tests": pairs("--test", test) if test else None,
                "layers": None if layers is None else layer_numbers(layers),
                "readouts": None if readouts is None else readouts.replace(" ", "").split(","),
                "fit_on": None if fit_on is None else _form(fit_on),
                "target_fprs": fpr or None,
                "max_tokens": max_tokens,
                "chat_template_kwargs": template_kwargs(chat_template_kwargs) or None,
                "seed": seed,
            }.items()
            if value is not None
        }
        _check_given(fields)
        given = engine_settings(words, dtype, verb="probe fit")
        fields["engine"] = fields.get("engine", {}) | given
        if model is not None and model_id is None:
            fields.pop("model_id", None)
        fields.setdefault("model_id", Path(fields["model"]).resolve().name)
        fields["name"] = out.resolve().name
        with waiting("reading the texts with the model's tokenizer"):
            fit = prepare_probe_fit(make_recipe(**fields), cache)
        for note in fit.notes:
            typer.echo(note, err=True)
        with kept_on_interrupt() as phase:
            fitted = fit.run(phase)
        fitted.save(out)
    if as_json:
        typer.echo(fitted.evaluation.model_dump_json(indent=2))
    else:
        _show(fitted, out)
    raise typer.Exit(1 if fitted.evaluation.findings else 0)


@contextmanager
def kept_on_interrupt() -> Iterator[Phase]:
    """Give what shows progress; Ctrl-C says that what was read is kept."""
    try:
        with progress() as phase:
            yield phase
    except KeyboardInterrupt as error:
        typer.echo(KEPT, err=True)
        raise typer.Exit(INTERRUPTED) from error


def pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` words as a mapping.

    Raises:
        ConfigError: a word without =, or a name that comes twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (equals and name and value) or name in found:
            raise ConfigError(
                where=option,
                got=repr(word) + (", a second time" if name in found else ""),
                want="NAME=VALUE, each name once",
            )
        found[name] = value
    return found


def _form(word: str) -> str:
    if word not in FORMS:
        raise ConfigError(where="--fit-on", got=repr(word), want=f"one of {', '.join(FORMS)}")
    return FORMS[word]


def _check_given(fields: dict[str, Any]) -> None:
    for name, shown in (("data", "FILE"), ("model", "--model")):
        if name not in fields:
            raise ConfigError(where=shown, got="nothing", want="it, or a --recipe that says it")


def _show(fitted: FittedProbe, out: Path) -> None:
    """Print a line for each test, findings, and the lines to use the probe by."""
    evaluation = fitted.evaluation
    [(readout, manifest)] = fitted.probe.readouts.items()
    rates = [f"{each.target_fpr:g}" for each in manifest.thresholds]
    layer = ", ".join(map(str, fitted.probe.layers))
    lines = [
        *(test_line(each) for each in evaluation.held_out),
        f"wrote     {out}: layer {layer}, readout {readout}, thresholds at fpr "
        f"{', '.join(rates) or 'none: too few negatives'}",
        *(f"finding   {each}" for each in evaluation.findings),
        *(f"note      {each}" for each in evaluation.remarks),
        f"use       probes: {{{fitted.probe.name}: {{path: {out}}}}} in pilothouse.yaml, and in a "
        "policy",
        f"          {_rule(evaluation, rates)}",
    ]
    typer.echo("\n".join(lines))


def test_line(report: HeldOutReport) -> str:
    """One test in a line: the probe, and how far it is ahead of the best baseline there."""
    figures, best = report.probe, report.best_baseline
    tpr = next(each.tpr for each in figures.tprs if each.target_fpr == 0.01)
    lead = report.leads[best]
    return (
        f"test      {report.name}, {report.form}: AUROC {interval(figures.auroc)}, TPR at 1% FPR "
        f"{interval(tpr)}, {figures.n_positive} / {figures.n_negative}; {best} "
        f"{report.baselines[best].auroc.estimate:.3f}, ahead by {lead.estimate:+.3f} "
        f"[{lead.low:+.3f}, {lead.high:+.3f}]"
    )


def interval(found: Interval) -> str:
    """A figure with its interval."""
    return f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _rule(evaluation: Evaluation, rates: Sequence[str]) -> str:
    """The words of a rule, at the smallest rate that has a threshold."""
    name = evaluation.probe
    when = f"{name} at fpr {rates[-1]}" if rates else f"{name} >= 0.9"
    return f"signals: {{{name}: {{probe: {name}}}}} ... when: {when}"
