"""`pilothouse vector fit`: makes a vector of contrastive pairs, with figures and controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.console import Console
from rich.table import Table

from pilothouse.artifacts.catalog import SERVED_SITES
from pilothouse.artifacts.saes.hints import SaeHints
from pilothouse.artifacts.saes.registry import FORMATS, load_sae
from pilothouse.cli.common import (
    ChatTemplateKwargs,
    as_option,
    check_named_out,
    exits,
    layer_numbers,
    template_kwargs,
)
from pilothouse.cli.sae.option import noted
from pilothouse.errors import ConfigError, spelled
from pilothouse.progress import progress, waiting
from pilothouse.training.card import figures_row, profile_line
from pilothouse.training.fit import (
    ALL_METHODS,
    USUAL_SCALES,
    chosen_method,
    prepare_fit,
)
from pilothouse.training.fit_options import FitOptions, SearchKind, Token
from pilothouse.training.report import CONTROLS, Cell, FitReport
from pilothouse.training.stages import Clock
from pilothouse.types import Clause, Site

if TYPE_CHECKING:
    from pilothouse.artifacts.saes.autoencoder import Sae

ALL_LAYERS = "all"
SHOWN_ROWS = 40
SHOWN = ("L", "scale", "effect", "moved", "ppl x", "kept", "KL>=", "facts")
EPILOG = """Examples:

pilothouse vector fit pairs.jsonl --model my-model --out vectors/polite

pilothouse vector fit pairs.csv --model my-model --out vectors/polite --method ridge --layers 8-20
--neutral texts.jsonl --facts facts.jsonl --dtype bfloat16 -- --tensor-parallel-size 2

pilothouse vector fit pairs.jsonl --model my-model --out vectors/polite --sae saes/layer-12
--features 4

pilothouse vector fit pairs.jsonl --model base --tuned base-polite --out vectors/polite

What follows -- goes to vLLM. Exit 1 is a vector that was made and has findings."""


def fit_vector(
    context: typer.Context,
    pairs: Annotated[
        Path, typer.Argument(help="JSON lines or .csv: docs/guides/making-vectors.md.")
    ],
    model: Annotated[str, typer.Option(help="The model's folder or name, as for `serve`.")],
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty. Names the vector.")],
    method: Annotated[str | None, typer.Option(help=f"One of {', '.join(ALL_METHODS)}.")] = None,
    layers: Annotated[
        str | None, typer.Option(help="all, or numbers and ranges: 4,8-12.", show_default="all")
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(help="Where states are read and edits made: resid_post, if not said."),
    ] = None,
    token: Annotated[
        str, typer.Option(help="State of a text: mean of its tokens, last or first of them.")
    ] = "mean",
    on: Annotated[
        str, typer.Option(help="Where it will steer, and is measured: output, prompt or all.")
    ] = "output",
    scales: Annotated[
        str | None,
        typer.Option(
            help="Strengths to try, as shares of the stream's mean length.",
            show_default=",".join(map(str, USUAL_SCALES)),
        ),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="staged: a screen of all layers, then the best few. full: every layer at every "
            "strength, with controls, which is usual where --layers or --scales are given."
        ),
    ] = None,
    controls: Annotated[int, typer.Option(min=1, max=20, help="Controls of each kind.")] = 3,
    resamples: Annotated[int, typer.Option(min=2, help="Refits for the direction's cosine.")] = 50,
    max_perplexity_ratio: Annotated[
        float, typer.Option(min=1.0, help="How much less fluent a choice may be.")
    ] = 1.2,
    neutral: Annotated[
        Path | None, typer.Option(help="Texts (field `text`) for fluency; else its own answers.")
    ] = None,
    facts: Annotated[
        Path | None, typer.Option(help="Questions (`prompt` or `messages`, and `answer`).")
    ] = None,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Length of answers.")] = 32,
    sae: Annotated[Path | None, typer.Option(help="An SAE's folder: fit by its features.")] = None,
    sae_format: Annotated[
        str | None, typer.Option(help=f"If its files do not tell: {', '.join(FORMATS)}.")
    ] = None,
    sae_average_norm: Annotated[
        float | None, typer.Option(help="Mean length of the SAE's inputs in training.")
    ] = None,
    sae_centred: Annotated[
        bool | None,
        typer.Option(
            "--sae-centred/--sae-not-centred",
            show_default=False,
            help="Whether it knows a stream without its mean, if its files do not say.",
        ),
    ] = None,
    features: Annotated[int, typer.Option(min=1, help="SAE features to sum up.")] = 5,
    tuned: Annotated[
        str | None, typer.Option(help="A fine-tuned form of the model: fit what it differs in.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="As for `serve`; if not said, what the processor is fast in.")
    ] = None,
    chat_template_kwargs: ChatTemplateKwargs = None,
    model_id: Annotated[
        str | None, typer.Option(help="The name artefacts know the model by; else its folder's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the split, controls and resamples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Fit a vector to pairs, search layer and strength, and test the best beside controls."""
    began = Clock.now()
    with exits():
        from pilothouse.training.engine_settings import engine_settings

        check_named_out(out)
        known_as = model_id or Path(model).resolve().name
        wanted, where = _layers(ALL_LAYERS if layers is None else layers), _site(site)
        told = SaeHints(model_id, _single(wanted, sae), where, sae_average_norm, sae_centred)
        loaded = _sae(sae, sae_format, told, known_as)
        options = FitOptions(
            pairs=pairs,
            model=model,
            model_id=known_as,
            name=out.resolve().name,
            method=chosen_method(method, with_sae=sae is not None, with_tuned=tuned is not None),
            layers=wanted if loaded is None else (loaded.tap.layer,),
            site=(where or "resid_post") if loaded is None else loaded.tap.site,
            token=_choice("--token", token, get_args(Token)),
            on=_choice("--on", on, get_args(Clause)),
            scales=USUAL_SCALES if scales is None else _scales(scales),
            controls=controls,
            resamples=resamples,
            max_perplexity_ratio=max_perplexity_ratio,
            seed=seed,
            neutral=neutral,
            facts=facts,
            answer_tokens=answer_tokens,
            features=features,
            tuned=tuned,
            settings=engine_settings(context.args, dtype),
            search=_search(search, is_grid=(layers, scales) != (None, None)),
            finer=scales is None,
            chat_template_kwargs=template_kwargs(chat_template_kwargs),
        )
        with waiting("reading the texts with the model's tokenizer"):
            fit = prepare_fit(options, loaded, began)
        for note in fit.notes:
            typer.echo(spelled(note, as_option), err=True)
        with progress() as phase:
            fitted = fit.run(phase)
        fitted.save(out)
        report = fitted.report
    typer.echo(report.model_dump_json(indent=2) if as_json else "", nl=as_json)
    if not as_json:
        _show(report, out)
    raise typer.Exit(1 if report.findings else 0)


def _sae(folder: Path | None, format_name: str | None, told: SaeHints, known_as: str) -> Sae | None:
    if folder is None:
        return None
    with waiting(f"reading {folder}"):
        sae = noted(load_sae(folder.resolve().name, folder, format_name, told))
    if sae.model_id != known_as:
        raise ConfigError(
            f"--sae: {folder} was made for {sae.model_id}; --model is {known_as}: give an SAE of "
            f"this model or, where both are the same weights, --model-id {sae.model_id}"
        )
    return sae


def _single(layers: tuple[int, ...] | None, sae: Path | None) -> int | None:
    """Return the layer of an SAE whose files do not say it."""
    if sae is None or layers is None:
        return None
    if len(layers) > 1:
        raise ConfigError(
            where="--layers", got=f"{len(layers)} layers with --sae", want="its own or nothing"
        )
    return layers[0]


def _layers(words: str) -> tuple[int, ...] | None:
    if words == "all":
        return None
    return layer_numbers(words, want="all, or numbers and ranges: 4,8-12")


def _site(word: str | None) -> Site | None:
    site: Site | None = None if word is None else _choice("--site", word, SERVED_SITES)
    return site


def _search(word: str | None, *, is_grid: bool) -> Any:
    """Measure a given grid whole, unless a staged search was asked for too."""
    return _choice("--search", word or ("full" if is_grid else "staged"), get_args(SearchKind))


def _choice(option: str, word: str, known: Any) -> Any:
    if word not in known:
        raise ConfigError(where=option, got=repr(word), want=f"one of {', '.join(known)}")
    return word


def _scales(words: str) -> tuple[float, ...]:
    try:
        found = tuple(sorted({float(each) for each in words.split(",")}))
    except ValueError:
        found = ()
    if not found or not all(math.isfinite(each) and each > 0 for each in found):
        raise ConfigError(where="--scales", got=repr(words), want="positive numbers with commas")
    return found


def _show(report: FitReport, out: Path) -> None:
    """Print tables, findings, and the lines to use the vector by."""
    console = Console()
    for title, cells in ((report.search.kind, report.sweep), ("test", report.test.cells)):
        controls = tuple(
            control for control in CONTROLS if any(each.kind == control for each in cells)
        )
        head = (*SHOWN[:3], *controls, *SHOWN[3:])
        table = Table(*head, title=title, caption=_caption(report) if controls else None)
        ranked = sorted(
            (each for each in cells if each.kind == "fitted"), key=lambda each: -each.figures.effect
        )
        for each in ranked[:SHOWN_ROWS]:
            beside = [_mean_effect(report, each, cells, control) for control in controls]
            effect, *others = figures_row(each.figures)
            table.add_row(str(each.layer), f"{each.scale:g}", effect, *beside, *others)
        console.print(table)
    lines = [
        f"wrote     {out}: layer {report.chosen_layer}, strength {report.chosen_scale:g}",
        f"took      {_took(report)}",
        *(f"finding   {each}" for each in report.findings),
        *(f"note      {each}" for each in report.notes),
        f"use       vectors: {{{report.name}: {{path: {out}}}}} in pilothouse.yaml, and steer by",
        f"          {profile_line(report)}",
    ]
    typer.echo("\n".join(lines))


def _caption(report: FitReport) -> str:
    where = "each at its own best layer" if report.search.kind == "staged" else "at the same place"
    return f"random, shuffled: mean effect of the controls, {where}"


def _mean_effect(report: FitReport, cell: Cell, cells: Sequence[Cell], control: str) -> str:
    """Return the mean effect of the controls of a kind; a full sweep has them at every place."""
    anywhere = report.search.kind == "staged"
    beside = [
        each.figures.effect
        for each in cells
        if each.kind == control and (anywhere or (each.layer, each.scale) == _place(cell))
    ]
    return f"{fmean(beside):+.3g}"


def _place(cell: Cell) -> tuple[int, float]:
    return cell.layer, cell.scale


def _took(report: FitReport) -> str:
    seconds = sum(each.seconds for each in report.stages)
    parts = ", ".join(f"{each.name} {each.seconds:.0f} s" for each in report.stages)
    return f"{int(seconds) // 60}:{int(seconds) % 60:02} ({parts})"
