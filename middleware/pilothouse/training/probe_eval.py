"""`eval_probe`: a fitted probe on another labelled file, with the figures that its card has.

Shapes: N rows, T tokens of a row, L layers of the probe, D width of the site, R reads of a token.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pilothouse.artifacts.manifest import Closed, Readout
from pilothouse.artifacts.probe import Probe, load_probe
from pilothouse.cache_folder import cache_folder
from pilothouse.errors import ArtefactError, ConfigError
from pilothouse.offline_env import set_offline_env
from pilothouse.probes.build import RECIPE_FILE
from pilothouse.probes.calibration import apply
from pilothouse.probes.heads import Pooling, make_head, read_tokens
from pilothouse.probes.held_out import figures_of
from pilothouse.probes.metrics import Floats, wilson
from pilothouse.probes.report import Figures, FileReport, FiredReport
from pilothouse.probes.score import sequence_logits
from pilothouse.probes.threshold import clopper_pearson_upper
from pilothouse.progress import Phase, silent_phase
from pilothouse.training.engine_settings import with_dtype, with_memory
from pilothouse.training.probe_activations import ActivationReader
from pilothouse.training.probe_data import LabelledFile, Reading, load_labelled
from pilothouse.training.probe_fit import CACHE
from pilothouse.training.probe_material import Part, rendered, text_renderer
from pilothouse.training.probe_recipe import MAX_TOKENS, recipe_fields

ROWS_AT_A_TIME = 1024
Tell = Callable[[str], None]


class ReadoutEval(Closed):
    """One readout on a file; no `figures` where the file has one label alone.

    `fired` says how many rows of each label reach each threshold; `unscored` rows had no token in
    the readout's scope.
    """

    figures: Figures | None
    fired: tuple[FiredReport, ...]
    unscored: int


class ProbeEval(Closed):
    """A probe on a file of labelled texts."""

    probe: str
    digest: str
    file: FileReport
    default_readout: str
    readouts: dict[str, ReadoutEval]
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PreparedEval:
    """A probe and texts as tokens; no engine has started."""

    probe: Probe
    file: LabelledFile
    part: Part
    too_long: int
    model: str
    settings: Mapping[str, Any]
    notes: tuple[str, ...]
    cache: Path
    seed: int

    def run(self, phase: Phase) -> ProbeEval:
        """Read the texts at the probe's layers and measure every readout.

        Raises:
            ConfigError: texts that the engine turns away.
            KeyboardInterrupt: Ctrl-C; what was read by then is in the cache.
        """
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        rows = self.part.rows
        reads = self._token_reads(phase)
        pooling = make_head(self.probe.head).pooling()
        labels_N = np.array(self.part.labels, bool)
        groups_N = np.array([each.group for each in rows], object).astype(str)
        readouts: dict[str, ReadoutEval] = {}
        phase("measuring", None)
        with threadpool_limits(limits=1):
            for name, readout in self.probe.readouts.items():
                logits_N = _sequence(readout, reads, self.part, pooling, self.probe.bias)
                readouts[name] = self._measured(name, readout, logits_N, labels_N, groups_N)
        measured = readouts[self.probe.default_readout]
        return ProbeEval(
            probe=self.probe.manifest.name,
            digest=self.probe.digest,
            file=FileReport(
                name=self.file.path.name,
                use="eval",
                sha256=self.file.sha256,
                rows=len(rows),
                positives=int(labels_N.sum()),
                groups=len(set(groups_N.tolist())),
                repeated=self.file.repeated,
                too_long=self.too_long,
            ),
            default_readout=self.probe.default_readout,
            readouts=readouts,
            findings=tuple(_findings(self.probe.default_readout, measured)),
        )

    def _token_reads(self, phase: Phase) -> list[Floats]:
        """reads_TR of every token of each row; activations are let go part by part."""
        reader = ActivationReader(
            self.model,
            self.probe.model_id,
            self.probe.layers,
            self.settings,
            self.cache,
            phase,
            self.probe.site,
        )
        taps = make_head(self.probe.head).reads(self.probe.tensors)
        prompts = self.part.prompts["as written"]
        found: list[Floats] = []
        try:
            for first in range(0, len(prompts), ROWS_AT_A_TIME):
                wave = prompts[first : first + ROWS_AT_A_TIME]
                for hidden_TLD in reader.hidden("reading texts", wave, "whole"):
                    found.append(read_tokens(taps, np.swapaxes(hidden_TLD, 0, 1)))
        finally:
            reader.close()
        return found

    def _measured(
        self,
        name: str,
        readout: Readout,
        logits_N: Floats,
        labels_N: np.ndarray[Any, np.dtype[np.bool_]],
        groups_N: np.ndarray[Any, np.dtype[np.str_]],
    ) -> ReadoutEval:
        scored_N = np.isfinite(logits_N)
        labels, logits = labels_N[scored_N], logits_N[scored_N]
        values = apply(logits, readout.slope, readout.offset)
        has_both = bool(labels.any()) and not bool(labels.all())
        fired = []
        for label in (True, False):
            of_label = values[labels == label]
            for threshold in readout.thresholds if of_label.size else ():
                if threshold.length_bucket is not None:
                    continue
                count = int((of_label >= threshold.value).sum())
                fired.append(
                    FiredReport(
                        name=name,
                        label=label,
                        target_fpr=threshold.target_fpr,
                        fired=count,
                        n=of_label.size,
                        upper=clopper_pearson_upper(count, of_label.size),
                    )
                )
        return ReadoutEval(
            figures=figures_of(logits, values, labels, groups_N[scored_N], self.seed)
            if has_both
            else None,
            fired=tuple(fired),
            unscored=int((~scored_N).sum()),
        )


def eval_probe(
    folder: Path | str,
    data: Path | str,
    *,
    model: str | None = None,
    columns: Mapping[str, str] | None = None,
    positive: Sequence[str] = (),
    negative: Sequence[str] = (),
    dtype: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    engine: Mapping[str, Any] | None = None,
    cache: Path | str | None = None,
    seed: int = 0,
    tell: Tell | None = None,
    phase: Phase | None = None,
) -> ProbeEval:
    """Measure a probe on another labelled file.

    Args:
        folder: the probe's.
        data: as for `fit_probe`, with the same columns, labels and template unless said.
        model: the model's folder or name; the recipe's, if not given.
        columns: as for `fit_probe`; the recipe's, if not given.
        positive: as for `fit_probe`; the recipe's, if not given.
        negative: as for `fit_probe`; the recipe's, if not given.
        dtype: what the model computes in; the recipe's, if not given.
        chat_template_kwargs: variables of the chat template; the recipe's, if not given.
        engine: further arguments of vLLM's `LLM`; the recipe's, if not given.
        cache: folder of the activations.
        seed: of resamples.
        tell: called with lines that say what was set where nothing was given.
        phase: called with each stage's title and size.

    Raises:
        ConfigError: an argument, a file or a model that cannot be used.
    """
    given = {
        "model": model,
        "columns": dict(columns or {}),
        "positive": tuple(positive),
        "negative": tuple(negative),
        "engine": {**(engine or {}), **({"dtype": dtype} if dtype else {})},
        "chat_template_kwargs": dict(chat_template_kwargs or {}),
    }
    prepared = prepare_probe_eval(
        Path(folder), Path(data), given, None if cache is None else Path(cache), seed
    )
    for note in prepared.notes:
        if tell is not None:
            tell(note)
    return prepared.run(phase or silent_phase)


def prepare_probe_eval(
    folder: Path, data: Path, given: Mapping[str, Any], cache: Path | None, seed: int
) -> PreparedEval:
    """Read probe, recipe and texts.

    Args:
        folder: the probe's.
        data: labelled texts.
        given: fields of a recipe; those that are empty are the recipe's own.
        cache: folder of the activations.
        seed: of resamples.

    Raises:
        ConfigError: a probe, a file or a model that cannot be used.
    """
    probe = load_probe(folder.resolve().name, folder)
    recipe = _recipe(folder) | {name: value for name, value in given.items() if value}
    model = recipe.get("model")
    if not isinstance(model, str):
        raise ConfigError(
            where="--model", got=f"nothing, and no {RECIPE_FILE} in {folder}", want="the model"
        )
    reading = Reading(
        tuple(dict(recipe.get("columns", {})).items()),
        tuple(recipe.get("positive", ())),
        tuple(recipe.get("negative", ())),
    )
    file = load_labelled(data, reading)
    set_offline_env(in_process=True, small=False)
    by_dtype = with_dtype(model, dict(recipe.get("engine", {})))
    renderer = text_renderer(model, by_dtype.settings, recipe.get("chat_template_kwargs", {}))
    _check_model(probe, model, by_dtype.settings)
    limit = min(int(recipe.get("max_tokens", MAX_TOKENS)), renderer.max_tokens - 1)
    part, too_long = rendered(renderer, file, limit)
    longest = max(len(each.ids) for each in part.prompts["as written"])
    by_memory = with_memory(model, by_dtype.settings, longest)
    notes = [*file.notes, *by_dtype.told, *by_memory.told]
    if too_long:
        notes.append(f"{data}: {too_long} texts of more than {limit} tokens are left out")
    return PreparedEval(
        probe,
        file,
        part,
        too_long,
        model,
        by_memory.settings,
        tuple(notes),
        cache or cache_folder(CACHE),
        seed,
    )


def _recipe(folder: Path) -> dict[str, Any]:
    """What the recipe of `probe fit` says; nothing for a probe that was made otherwise."""
    path = folder / RECIPE_FILE
    if not path.is_file():
        return {}
    try:
        return recipe_fields(path)
    except ConfigError:
        return {}


def _check_model(probe: Probe, model: str, settings: Mapping[str, Any]) -> None:
    from pilothouse.engine.plan.model_facts import model_facts

    facts = model_facts(Namespace(model=model, **settings))
    if facts.d_model != probe.d_model or probe.layers[-1] >= facts.num_layers:
        raise ArtefactError(
            where=f"{model}",
            got=f"width {facts.d_model} and {facts.num_layers} layers",
            want=f"those of {probe.model_id}: width {probe.d_model}, layer {probe.layers[-1]}",
            fix="name the model that the probe was fitted on",
        )


def _sequence(
    readout: Readout, reads: Sequence[Floats], part: Part, pooling: Pooling | None, bias: float
) -> Floats:
    """logits_N of a readout; NaN where it has no token of a row.

    A head that pools begins anew where the scope does.
    """
    prompts = part.prompts["as written"]
    scoped = []
    for reads_TR, prompt in zip(reads, prompts, strict=True):
        first = {"prompt": 0, "output": prompt.prompt_tokens, "answer": prompt.prompt_tokens - 1}
        end = prompt.prompt_tokens if readout.scope == "prompt" else len(reads_TR)
        scoped.append(_logits(reads_TR[first[readout.scope] : end], pooling) + bias)
    starts = np.concatenate([[0], np.cumsum([each.size for each in scoped])]).astype(np.int64)
    return sequence_logits(np.concatenate(scoped), starts, readout.aggregate)


def _logits(reads_TR: Floats, pooling: Pooling | None) -> Floats:
    """logits_T of a run: of each token, or what a head that pools has made of the run so far."""
    if pooling is None:
        return reads_TR[:, 0]
    if not len(reads_TR):
        return np.empty(0)
    return pooling.fold_run(pooling.start(1)[0], reads_TR)


def _findings(name: str, measured: ReadoutEval) -> list[str]:
    """Thresholds that do not hold on the file."""
    return [
        f"{name}: at fpr {each.target_fpr:g} it fires on {each.fired} of {each.n} negatives: the "
        "threshold does not hold here"
        for each in measured.fired
        if not each.label and wilson(each.fired, each.n).low > each.target_fpr
    ]
