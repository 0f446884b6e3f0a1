"""`fit_vector`: contrastive pairs become a vector, with figures and controls."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from pilothouse.artifacts.catalog import SERVED_SITES
from pilothouse.artifacts.vector import Vector, save_vector
from pilothouse.config import NAME
from pilothouse.errors import ConfigError, argument, spelled
from pilothouse.offline_env import set_offline_env
from pilothouse.output_dir import MADE, atomic_output_dir, check_out
from pilothouse.progress import Phase, silent_phase
from pilothouse.training.card import card
from pilothouse.training.engine_settings import with_dtype, with_memory
from pilothouse.training.fit_options import (
    Files,
    FitOptions,
    SearchKind,
    Token,
    read_files,
    tokenized,
)
from pilothouse.training.methods import METHODS
from pilothouse.training.plot import plot
from pilothouse.training.report import FitReport
from pilothouse.training.stages import Clock
from pilothouse.training.tokenized import Texts
from pilothouse.types import Clause, Site

if TYPE_CHECKING:
    from pilothouse.artifacts.saes.autoencoder import Sae

SAE_METHOD: Final = "sae-features"
TUNED_METHOD: Final = "tuned-difference"
DEFAULT_METHOD: Final = "difference-of-means"
ALL_METHODS = (*METHODS, SAE_METHOD, TUNED_METHOD)
REPORT_FILE, CARD_FILE, PLOT_FILE = "fit.json", "README.md", "sweep.svg"
USUAL_SCALES: Final = (0.05, 0.1, 0.2, 0.4)
"""Strengths that are tried where none are given, as shares of the stream's mean length."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FittedVector:
    """The vector at the layer that was chosen, and all that was measured on the way.

    Attributes:
        vector: the vector, at one layer; `report.chosen_scale` is the strength that goes with it.
        report: all figures, those on pairs that were neither fitted nor chosen on among them.
    """

    vector: Vector
    report: FitReport

    def save(self, out: Path | str) -> None:
        """Write the folder that pilothouse.yaml names: vector, card, plot and `fit.json`.

        All of it is written or nothing.

        Raises:
            ConfigError: the folder holds something, or it is a file.
        """
        check_out(Path(out))
        with atomic_output_dir(Path(out)) as room:
            place = room / MADE
            save_vector(self.vector, place)
            told = self.report.model_dump_json(indent=2) + "\n"
            (place / REPORT_FILE).write_text(told, encoding="utf-8")
            page = card(self.vector.manifest, self.report)
            (place / CARD_FILE).write_text(page, encoding="utf-8")
            (place / PLOT_FILE).write_text(plot(self.report), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class PreparedFit:
    """A fit whose files are read and whose texts are tokens; no engine has started.

    Attributes:
        notes: what was set where nothing was given, and what is odd about the texts. They name
            arguments as errors do: `pilothouse.errors.spelled` spells them.
    """

    notes: tuple[str, ...]
    options: FitOptions
    files: Files
    texts: Texts
    sae: Sae | None
    began: Clock

    def run(self, phase: Phase) -> FittedVector:
        """Start the engine, fit, search, choose and test.

        Args:
            phase: called with each stage's title and size, as `pilothouse.progress` does.

        Raises:
            ConfigError: options that the model or the files do not go with.
        """
        from pilothouse.training.fit_steps import run_fit

        vector, report = run_fit(self.options, self.files, self.texts, self.sae, phase, self.began)
        return FittedVector(vector, report)


def prepare_fit(options: FitOptions, sae: Sae | None, began: Clock) -> PreparedFit:
    """Read the files and the model's configuration, and settle the engine's arguments.

    Args:
        options: what is asked for.
        sae: the SAE whose features fit, if any.
        began: when the time that stages are counted in began.

    Raises:
        ConfigError: a file or a model that cannot be used, with a line for everything wrong.
    """
    files = read_files(options)
    # vLLM reads the environment when it is imported.
    set_offline_env(in_process=True, small=False)
    by_dtype = with_dtype(options.model, options.settings)
    options = replace(options, settings=by_dtype.settings)
    texts = tokenized(options, files)
    longest = texts.longest + options.answer_tokens
    by_memory = with_memory(options.model, options.settings, longest)
    options = replace(options, settings=by_memory.settings)
    notes = (*by_dtype.told, *by_memory.told, *texts.notes)
    return PreparedFit(notes, options, files, texts, sae, began)


def fit_vector(
    pairs: Path | str,
    *,
    model: str,
    name: str,
    model_id: str | None = None,
    method: str | None = None,
    layers: Sequence[int] | None = None,
    site: Site = "resid_post",
    token: Token = "mean",
    on: Clause = "output",
    scales: Sequence[float] | None = None,
    search: SearchKind | None = None,
    controls: int = 3,
    resamples: int = 50,
    max_perplexity_ratio: float = 1.2,
    neutral: Path | str | None = None,
    facts: Path | str | None = None,
    answer_tokens: int = 32,
    sae: Sae | None = None,
    features: int = 5,
    tuned: str | None = None,
    dtype: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    engine: Mapping[str, Any] | None = None,
    seed: int = 0,
    tell: Tell | None = None,
    phase: Phase | None = None,
) -> FittedVector:
    """Fit a vector to pairs, search layer and strength, and test the best beside controls.

    Args:
        pairs: JSON lines or CSV; docs/guides/making-vectors.md says which fields.
        model: the model's folder or name, as for `pilothouse serve`.
        name: the vector's name.
        model_id: what artefacts call the model; the last part of its name, if not given.
        method: one of `ALL_METHODS`; what goes with `sae` or `tuned`, else the difference of means.
        layers: those to look at; all, if not given. With an SAE it is the SAE's.
        site: where states are read and edits made. With an SAE it is the SAE's.
        token: what a text's state is: the mean of its tokens, the last or the first of them.
        on: where the vector will steer, and is measured.
        scales: strengths to try, as shares of the stream's mean length.
        search: `staged` screens all layers and then searches the best few; `full` measures every
            layer at every strength, with controls, and is usual where layers or scales are given.
        controls: how many of each kind.
        resamples: refits on resampled pairs, whose cosine with the direction is reported.
        max_perplexity_ratio: how much less fluent a choice may be.
        neutral: texts (field `text`) for fluency; the model's own answers, if not given.
        facts: questions (`prompt` or `messages`, and `answer`).
        answer_tokens: how long answers are.
        sae: fit by its features.
        features: how many of them are summed up.
        tuned: a fine-tuned form of the model: fit what it differs in.
        dtype: as for `serve`; what the processor is fast in, if not given.
        chat_template_kwargs: variables of the chat template.
        engine: further arguments of vLLM's `LLM`.
        seed: of the split, controls and resamples.
        tell: called with lines that say what was set where nothing was given.
        phase: called with each stage's title and size, as `pilothouse.progress` does.

    Raises:
        ConfigError: an argument, a file or a model that cannot be used.
    """
    known_as = model_id or Path(model).resolve().name
    _check_arguments(name=name, site=site, token=token, on=on, search=search, scales=scales)
    _check_numbers(
        controls=(controls, 1),
        resamples=(resamples, 2),
        answer_tokens=(answer_tokens, 1),
        features=(features, 1),
        seed=(seed, 0),
        max_perplexity_ratio=(max_perplexity_ratio, 1.0),
    )
    _check_sae(sae, known_as)
    given = dict(engine or {})
    if dtype is not None and given.setdefault("dtype", dtype) != dtype:
        raise ConfigError(f"dtype: got {dtype} and, in engine, {given['dtype']}: want it once")
    options = FitOptions(
        pairs=Path(pairs),
        model=model,
        model_id=known_as,
        name=name,
        method=chosen_method(method, with_sae=sae is not None, with_tuned=tuned is not None),
        layers=(None if layers is None else tuple(layers)) if sae is None else (sae.tap.layer,),
        site=site if sae is None else sae.tap.site,
        token=token,
        on=on,
        scales=tuple(USUAL_SCALES if scales is None else sorted(set(scales))),
        controls=controls,
        resamples=resamples,
        max_perplexity_ratio=max_perplexity_ratio,
        seed=seed,
        neutral=None if neutral is None else Path(neutral),
        facts=None if facts is None else Path(facts),
        answer_tokens=answer_tokens,
        features=features,
        tuned=tuned,
        settings=given,
        search=search or ("full" if (layers, scales) != (None, None) else "staged"),
        finer=scales is None,
        chat_template_kwargs=dict(chat_template_kwargs or {}),
    )
    fit = prepare_fit(options, sae, Clock.now())
    for note in fit.notes:
        if tell is not None:
            tell(spelled(note))
    return fit.run(phase or silent_phase)


def chosen_method(method: str | None, *, with_sae: bool, with_tuned: bool) -> str:
    """Return the method that was asked for, or the one that goes with what was given.

    Args:
        method: the one that was asked for, if any.
        with_sae: whether there is an SAE.
        with_tuned: whether there is a tuned form of the model.

    Raises:
        ConfigError: an unknown method, or one that does not go with what was given.
    """
    needed = [name for name, on in ((SAE_METHOD, with_sae), (TUNED_METHOD, with_tuned)) if on]
    wanted = method or (needed[0] if needed else DEFAULT_METHOD)
    here, sae, tuned = (argument(each) for each in ("method", "sae", "tuned"))
    if wanted not in ALL_METHODS:
        raise ConfigError(f"{here}: got {wanted!r}, want one of {', '.join(ALL_METHODS)}")
    if needed != [name for name in (SAE_METHOD, TUNED_METHOD) if name == wanted]:
        raise ConfigError(
            f"{here} {wanted}: {SAE_METHOD} goes with {sae} and {TUNED_METHOD} with {tuned}, and "
            "each with nothing else"
        )
    return wanted


def _check_arguments(
    *,
    name: str,
    site: str,
    token: str,
    on: str,
    search: str | None,
    scales: Sequence[float] | None,
) -> None:
    if re.fullmatch(NAME, name) is None:
        raise ConfigError(f"name: got {name!r}, want letters, digits and . _ -")
    choices: tuple[tuple[str, str | None, Sequence[str]], ...] = (
        ("site", site, SERVED_SITES),
        ("token", token, get_args(Token)),
        ("on", on, get_args(Clause)),
        ("search", search, get_args(SearchKind)),
    )
    for each, given, known in choices:
        if given is not None and given not in known:
            raise ConfigError(f"{each}: got {given!r}, want one of {', '.join(known)}")
    if scales is not None and not (
        scales and all(math.isfinite(each) and each > 0 for each in scales)
    ):
        raise ConfigError(f"scales: got {list(scales)}, want positive numbers")


def _check_numbers(**given: tuple[float, float]) -> None:
    """Refuse numbers below their least, each given beside it."""
    for each, (number, least) in given.items():
        if not number >= least:
            raise ConfigError(f"{each}: got {number}, want at least {least:g}")


def _check_sae(sae: Sae | None, known_as: str) -> None:
    if sae is not None and sae.model_id != known_as:
        raise ConfigError(
            f"sae: got one of {sae.model_id}, want one of {known_as}: give an SAE of this model "
            f"or, where both are the same weights, model_id={sae.model_id!r}"
        )
