"""`fit_probe`: a labelled file becomes a calibrated probe, with figures and baselines."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilothouse.artifacts.probe import Probe, save_probe
from pilothouse.cache_folder import cache_folder
from pilothouse.errors import ConfigError
from pilothouse.offline_env import set_offline_env
from pilothouse.output_dir import MADE, atomic_output_dir, check_out
from pilothouse.probes.build import CARD_FILE, EVALUATION_FILE, RECIPE_FILE
from pilothouse.probes.card import render_card
from pilothouse.probes.overlap import near_texts
from pilothouse.probes.report import Evaluation, Form
from pilothouse.probes.threshold import negatives_needed
from pilothouse.progress import Phase, silent_phase
from pilothouse.training.engine_settings import with_dtype, with_memory
from pilothouse.training.probe_data import LabelledFile, LabelledText, classes_of, load_labelled
from pilothouse.training.probe_material import (
    ProbeMaterial,
    TestFile,
    rendered,
    text_renderer,
    usual_layers,
)
from pilothouse.training.probe_recipe import (
    DATA,
    MAX_TOKENS,
    USUAL_FPRS,
    ProbeRecipe,
    ReadoutKind,
    make_recipe,
)
from pilothouse.training.probe_split import deal_groups, families_of, whole_sources

CACHE = "probe-activations"
FEWEST_GROUPS = 10
"""Of each label: six to fit, two to calibrate and two to test on."""
ENOUGH_GROUPS = 100
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FittedProbe:
    """The probe, how it was made, and how good it is."""

    probe: Probe
    recipe: ProbeRecipe
    evaluation: Evaluation

    def save(self, out: Path | str) -> None:
        """Write the folder that pilothouse.yaml names: all of it or nothing.

        Raises:
            ConfigError: the folder holds something, or it is a file.
        """
        check_out(Path(out))
        with atomic_output_dir(Path(out)) as room:
            place = room / MADE
            save_probe(self.probe, place)
            files = {
                RECIPE_FILE: self.recipe.to_file(Path(out)),
                EVALUATION_FILE: self.evaluation.model_dump_json(indent=2) + "\n",
                CARD_FILE: render_card(self.probe.manifest, self.evaluation),
            }
            for name, text in files.items():
                (place / name).write_text(text, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class PreparedProbeFit:
    """A fit whose files are read and whose texts are tokens; no engine has started.

    Attributes:
        notes: what was set where nothing was given, and what is odd about the texts.
    """

    notes: tuple[str, ...]
    material: ProbeMaterial
    cache: Path

    def run(self, phase: Phase) -> FittedProbe:
        """Read the texts, fit, calibrate and measure.

        Args:
            phase: called with each stage's title and size, as `pilothouse.progress` does.

        Raises:
            ConfigError: texts or options that the model does not go with.
            KeyboardInterrupt: Ctrl-C; what was read by then is in the cache.
        """
        from pilothouse.training.probe_steps import run_fit

        probe, evaluation = run_fit(self.material, self.cache, phase)
        return FittedProbe(probe, self.material.recipe, evaluation)


def fit_probe(
    data: Path | str,
    *,
    model: str,
    name: str,
    model_id: str | None = None,
    columns: Mapping[str, str] | None = None,
    positive: Sequence[str] = (),
    negative: Sequence[str] = (),
    tests: Mapping[str, Path | str] | None = None,
    layers: Sequence[int] | None = None,
    readouts: Sequence[ReadoutKind] | None = None,
    fit_on: Form = "as written",
    target_fprs: Sequence[float] | None = None,
    max_tokens: int = MAX_TOKENS,
    dtype: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    engine: Mapping[str, Any] | None = None,
    seed: int = 0,
    cache: Path | str | None = None,
    tell: Tell | None = None,
    phase: Phase | None = None,
) -> FittedProbe:
    """Fit a probe to labelled texts, calibrate it, and measure it beside baselines.

    Args:
        data: JSON lines or CSV; docs/guides/fit-a-probe.md says which columns.
        model: the model's folder or name, as for `pilothouse serve`.
        name: the probe's.
        model_id: what artefacts call the model; the last part of its name, if not given.
        columns: our field -> the file's name of it, where it has another.
        positive: values of the label that mean a positive, if they are not the usual words.
        negative: those that mean a negative; all others, if not given.
        tests: named files of other sources to measure on.
        layers: to choose from; about ten, if not given.
        readouts: to choose from; the last token of prompts, of answers the mean too, if not given.
        fit_on: the texts as they are, or alike in case and final punctuation.
        target_fprs: rates to set thresholds for; refused where the data cannot support one.
        max_tokens: longer texts are left out.
        dtype: as for `serve`; what the processor is fast in, if not given.
        chat_template_kwargs: variables of the chat template.
        engine: further arguments of vLLM's `LLM`.
        seed: of splits, controls and resamples.
        cache: folder of the activations; the cache of Pilothouse, if not given.
        tell: called with lines that say what was set where nothing was given.
        phase: called with each stage's title and size, as `pilothouse.progress` does.

    Raises:
        ConfigError: an argument, a file or a model that cannot be used.
    """
    settings = dict(engine or {})
    if dtype is not None and settings.setdefault("dtype", dtype) != dtype:
        raise ConfigError(where="dtype", got=f"{dtype} and, in engine, another", want="it once")
    recipe = make_recipe(
        name=name,
        data=data,
        model=model,
        model_id=model_id or Path(model).resolve().name,
        columns=dict(columns or {}),
        positive=tuple(positive),
        negative=tuple(negative),
        tests=dict(tests or {}),
        layers=None if layers is None else tuple(layers),
        readouts=None if readouts is None else tuple(readouts),
        fit_on=fit_on,
        target_fprs=None if target_fprs is None else tuple(target_fprs),
        max_tokens=max_tokens,
        engine=settings,
        chat_template_kwargs=dict(chat_template_kwargs or {}),
        seed=seed,
    )
    fit = prepare_probe_fit(recipe, None if cache is None else Path(cache))
    for note in fit.notes:
        if tell is not None:
            tell(note)
    return fit.run(phase or silent_phase)


def prepare_probe_fit(recipe: ProbeRecipe, cache: Path | None = None) -> PreparedProbeFit:
    """Read the files and render their texts, and settle the engine's arguments.

    Raises:
        ConfigError: a file or a model that cannot be used, data that are too few for what is
            asked, with what would be enough.
    """
    file = load_labelled(recipe.data, recipe.reading)
    tests = {name: load_labelled(path, recipe.reading) for name, path in recipe.tests.items()}
    _check_kinds(file, tests)
    _check_classes(file.path, file.rows, FEWEST_GROUPS)
    notes = [*_changed(recipe, file, tests), *file.notes]
    for each in tests.values():
        notes += each.notes

    # vLLM reads the environment when it is imported.
    set_offline_env(in_process=True, small=False)
    by_dtype = with_dtype(recipe.model, dict(recipe.engine))
    renderer = text_renderer(recipe.model, by_dtype.settings, recipe.chat_template_kwargs)
    notes += by_dtype.told
    limit = min(recipe.max_tokens, renderer.max_tokens - 1)
    part, too_long = rendered(renderer, file, limit)
    notes += _left_out(file.path, too_long, limit)
    _check_classes(file.path, part.rows, FEWEST_GROUPS)
    sides = deal_groups(part.labels, [each.group for each in part.rows], recipe.shares, recipe.seed)
    fit, calibration, test = (part.select(sides == side) for side in range(3))
    _check_fprs(recipe, calibration.rows)
    named: dict[str, TestFile] = {}
    fitted = [*fit.said("alike"), *calibration.said("alike")]
    for name, each in tests.items():
        found, long = rendered(renderer, each, limit)
        notes += _left_out(each.path, long, limit)
        kept = found.select(~near_texts(found.said("alike"), fitted))
        if not kept.rows:
            raise ConfigError(
                where=each.path,
                got=f"{len(found.rows)} texts, each of them nearly one of {file.path.name}",
                want="texts of another source",
            )
        named[name] = TestFile(each, kept, len(found.rows) - len(kept.rows), long)
    everything = [fit, calibration, test, *(each.part for each in named.values())]
    longest = max(
        len(p.ids) for each in everything for found in each.prompts.values() for p in found
    )
    by_memory = with_memory(recipe.model, by_dtype.settings, longest)
    notes += by_memory.told
    families, by_source = families_of(
        fit.labels,
        [each.group for each in fit.rows],
        [each.source for each in fit.rows],
        recipe.seed,
    )
    hashes = {DATA: file.sha256, **{name: each.sha256 for name, each in tests.items()}}
    material = ProbeMaterial(
        recipe=recipe.model_copy(update={"sha256": hashes, "engine": by_dtype.settings}),
        settings=by_memory.settings,
        layers=_layers(recipe, by_dtype.settings),
        readouts=recipe.readouts or (("mean", "last") if file.has_answers else ("last",)),
        file=file,
        too_long=too_long,
        fit=fit,
        calibration=calibration,
        test=test,
        families=tuple(families),
        by_source=by_source,
        sources=tuple(whole_sources(part.labels, [each.source for each in part.rows])),
        tests=named,
        is_chat=renderer.is_chat,
    )
    notes += _notes(material)
    return PreparedProbeFit(tuple(notes), material, cache or cache_folder(CACHE))


def _layers(recipe: ProbeRecipe, settings: Mapping[str, Any]) -> tuple[int, ...]:
    from pilothouse.engine.plan.model_facts import model_facts

    facts = model_facts(Namespace(model=recipe.model, **settings))
    if recipe.layers is None:
        return usual_layers(facts.num_layers)
    wrong = [each for each in recipe.layers if each >= facts.num_layers]
    if wrong:
        raise ConfigError(
            where="layers", got=wrong, want=f"numbers from 0 to {facts.num_layers - 1}"
        )
    return tuple(sorted(recipe.layers))


def _check_kinds(file: LabelledFile, tests: Mapping[str, LabelledFile]) -> None:
    for each in tests.values():
        if each.has_answers != file.has_answers:
            kinds = {True: "answers", False: "prompts"}
            raise ConfigError(
                where=each.path,
                got=kinds[each.has_answers],
                want=f"{kinds[file.has_answers]}, as {file.path} has",
            )


def _check_classes(path: Path, rows: Sequence[LabelledText], fewest: int) -> None:
    groups = dict(classes_of(rows))
    if min(groups.values()) < fewest:
        raise ConfigError(
            where=path,
            got=f"{groups[True]} groups with a positive and {groups[False]} with a negative",
            want=f"at least {fewest} of each",
            fix="label more texts; a file of one label alone can be a --test"
            if min(groups.values()) == 0
            else "label more texts, or give finer groups",
        )


def _check_fprs(recipe: ProbeRecipe, calibration: Sequence[LabelledText]) -> None:
    """Refuse rates that were asked for and cannot be bounded by so few negatives."""
    negatives = sum(not each.label for each in calibration)
    for target in recipe.target_fprs or ():
        needed = negatives_needed(target)
        if negatives < needed:
            of_all = -(-needed // recipe.shares[1])
            raise ConfigError(
                where=f"fpr {target:g}",
                got=f"{negatives} negatives to calibrate on",
                want=f"at least {needed} for it to hold with 95% confidence",
                fix=f"give about {of_all:.0f} negatives in all, or a larger rate",
            )


def _changed(
    recipe: ProbeRecipe, file: LabelledFile, tests: Mapping[str, LabelledFile]
) -> list[str]:
    return [
        f"{each.path}: is not what it was when this recipe was fitted"
        for name, each in {DATA: file, **tests}.items()
        if recipe.sha256.get(name, each.sha256) != each.sha256
    ]


def _left_out(path: Path, too_long: int, limit: int) -> list[str]:
    if not too_long:
        return []
    return [f"{path}: {too_long} texts of more than {limit} tokens are left out (--max-tokens)"]


def _notes(material: ProbeMaterial) -> list[str]:
    groups = dict(classes_of((*material.fit.rows, *material.calibration.rows, *material.test.rows)))
    notes = []
    if not material.is_chat:
        notes.append("the model has no chat template: texts are read as they stand")
    if min(groups.values()) < ENOUGH_GROUPS:
        notes.append(
            f"{groups[True]} groups with a positive and {groups[False]} with a negative are few: "
            f"intervals will be wide; {ENOUGH_GROUPS} of each are a beginning"
        )
    negatives = sum(not each.label for each in material.calibration.rows)
    if material.recipe.target_fprs is None:
        unmet = [each for each in USUAL_FPRS if negatives_needed(each) > negatives]
        if unmet:
            share = material.recipe.shares[1]
            wanted = ", ".join(
                f"{each:g} needs {negatives_needed(each)} (about "
                f"{-(-negatives_needed(each) // share):.0f} in all)"
                for each in unmet
            )
            notes.append(
                f"{negatives} negatives to calibrate on; a false positive rate of {wanted}"
            )
    return notes
