"""Carries out a plan: fits a probe on some sources and measures it on others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pilothouse.artifacts.manifest import Readout, ReadoutAggregate
from pilothouse.artifacts.probe import build_probe
from pilothouse.demo.activations import MAX_TOKENS
from pilothouse.demo.part_reader import PartReader
from pilothouse.demo.probe_plans import Part, Parts, Plan
from pilothouse.demo.texts.sets import SETS
from pilothouse.demo.texts.text_set import Text
from pilothouse.demo.wheels import WHEELS
from pilothouse.probes.build import FittedProbe
from pilothouse.probes.calibration import apply
from pilothouse.probes.dataset import Dataset
from pilothouse.probes.evaluate import split_report
from pilothouse.probes.readout import calibrated_readout, token_calibration
from pilothouse.probes.recipe import ReadoutRecipe, Recipe
from pilothouse.probes.report import (
    Evaluation,
    FiredReport,
    Form,
    SourceReport,
    TransferReport,
    TrialReport,
)
from pilothouse.probes.sweep import readout_logits
from pilothouse.probes.threshold import clopper_pearson_upper
from pilothouse.probes.transfer import (
    PROBE,
    SHUFFLED,
    Transfer,
    fit_transfer,
    scores_of,
    transfer_report,
)
from pilothouse.progress import progress

CREATED_BY = "python -m pilothouse.demo.probes"
FORMS: tuple[Form, ...] = ("alike", "as written")
RIDGE_CS = (1e-4, 1e-3, 1e-2, 1e-1)
ALL = 1_000_000


def fit_plan(plan: Plan, reader: PartReader, seed: int) -> FittedProbe:
    """Read, fit, calibrate and measure one probe.

    Raises:
        ConfigError: a set that is not what it was, or data that cannot be fitted.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    sources = {part: name for name, parts in plan.fitted.items() for part in parts}
    fitted = {part: reader.texts(part) for part in sources}
    train = reader.dataset(plan, fitted, "alike", sources, asked=plan.log_probabilities)
    written = reader.written(fitted)
    calibration = _dataset(plan, reader, plan.calibration)
    pooled_texts, _ = reader.tested(plan, plan.pooled)
    pooled = reader.dataset(plan, pooled_texts, "as written", _own(plan.pooled))
    tests = list(_tests(plan, reader))
    aggregate = ReadoutAggregate(kind="last")
    recipe = Recipe(
        name=plan.name,
        scope=plan.scope,
        layer_sets=tuple((each,) for each in reader.activations.layers),
        readouts={plan.readout: ReadoutRecipe(scope=plan.scope, aggregate=aggregate)},
        trainings=("last",),
        ridge_cs=RIDGE_CS,
        target_fprs=plan.target_fprs,
        validation_share=1.0 / len(plan.fitted),
        left_out_families=(),
        seed=seed,
    )
    steps = len(recipe.layer_sets) * len(RIDGE_CS) + len(tests)
    with threadpool_limits(limits=1), progress(stays=False) as phase:
        advance = phase(f"fitting {plan.name}", steps)
        transfer = fit_transfer(recipe, train, written, advance)
        measured = calibrated_readout(
            transfer.row, recipe.readouts[plan.readout], recipe, calibration, pooled
        )
        token = token_calibration(transfer.row, calibration)
        transfers = []
        for name, form, test, overlapping in tests:
            transfers.append(
                transfer_report(transfer, name, form, test, overlapping=overlapping, seed=seed)
            )
            advance(1)
        baselines = scores_of(transfer, "as written", pooled, seed)
    probe = build_probe(
        plan.name,
        model_id=reader.activations.model_id,
        layers=transfer.row.layers,
        weights_LD=transfer.row.weights_LD,
        bias=transfer.row.bias,
        token_slope=token.slope,
        token_offset=token.offset,
        readouts={plan.readout: measured.readout},
        default_readout=plan.readout,
        created_by=CREATED_BY,
    )
    fired = tuple(_fired(plan, reader, pooled_texts, transfer, measured.readout))
    evaluation = Evaluation(
        probe=plan.name,
        objective=recipe.objective,
        chosen=TrialReport.model_validate(transfer.chosen._asdict()),
        sweep=tuple(TrialReport.model_validate(each._asdict()) for each in transfer.trials),
        splits={
            "train": split_report(train),
            "calibration": split_report(calibration),
            "test": split_report(pooled),
        },
        default_readout=plan.readout,
        readouts={plan.readout: measured.report},
        baselines={name: score for name, score in baselines.items() if name != PROBE},
        left_out_families=(),
        undone_families=(),
        shuffled_labels=False,
        transfers=tuple(transfers),
        fired=fired,
        sources=tuple(_sources(plan, reader)),
        remarks=tuple(_remarks(plan, transfers, fired)),
    )
    return FittedProbe(probe, recipe, evaluation)


def beaten(transfer: TransferReport) -> list[str]:
    """Return the baselines that the probe beats, with the whole interval above 0."""
    return [name for name, lead in transfer.leads.items() if name != SHUFFLED and lead.low > 0]


def _own(parts: Parts) -> dict[Part, str]:
    return {part: part.name for part in parts}


def _dataset(plan: Plan, reader: PartReader, parts: Parts) -> Dataset:
    texts = {part: reader.texts(part) for part in parts}
    return reader.dataset(plan, texts, "as written", _own(parts))


def _tests(plan: Plan, reader: PartReader) -> Iterator[tuple[str, Form, Dataset, int]]:
    for name, parts in plan.tests.items():
        texts, overlapping = reader.tested(plan, parts)
        for form in FORMS:
            asked = ALL if form == "alike" else 0
            yield (
                name,
                form,
                reader.dataset(plan, texts, form, _own(parts), asked=asked),
                overlapping,
            )
    if plan.against_all:
        texts, overlapping = reader.tested(plan, plan.against_all)
        harmless = sum(not each.label for kept in texts.values() for each in kept)
        dataset = reader.dataset(plan, texts, "as written", _own(plan.against_all))
        harmful = ", ".join(
            part.name for part, kept in texts.items() if any(each.label for each in kept)
        )
        name = f"{harmful} against {harmless} harmless texts"
        yield name, "as written", dataset, overlapping


def _fired(
    plan: Plan,
    reader: PartReader,
    texts: dict[Part, list[Text]],
    transfer: Transfer,
    readout: Readout,
) -> Iterator[FiredReport]:
    """Yield how many texts reach the thresholds, by part and label."""
    for part, kept in texts.items():
        for label in (True, False):
            of_label = [each for each in kept if each.label is label]
            if not of_label:
                continue
            dataset = reader.dataset(plan, {part: of_label}, "as written", _own((part,)))
            logits_N = readout_logits(transfer.row, dataset, readout.aggregate)
            values_N = apply(logits_N, readout.slope, readout.offset)
            for threshold in readout.thresholds:
                fired = int((values_N >= threshold.value).sum())
                yield FiredReport(
                    name=part.name,
                    label=label,
                    target_fpr=threshold.target_fpr,
                    fired=fired,
                    n=len(of_label),
                    upper=clopper_pearson_upper(fired, len(of_label)),
                )


def _sources(plan: Plan, reader: PartReader) -> Iterator[SourceReport]:
    for use, part in plan.uses():
        entry = SETS[part.name]
        wheel = WHEELS[entry.wheel]
        yield SourceReport(
            name=part.name if part.kind is None else f"{part.name}, {part.kind}",
            use=use,
            wheel=str(wheel),
            licence=entry.licence,
            digest=entry.digest,
            texts=len(reader.texts(part)),
            too_long=reader.too_long[part],
        )


def _remarks(
    plan: Plan, transfers: Sequence[TransferReport], fired: Sequence[FiredReport]
) -> Iterator[str]:
    yield f"It looks for {plan.finds}."
    yield "The model is SmolLM2-135M-Instruct with Q4_1 weights, dequantised, run in float32."
    alike = [each for each in transfers if each.form == "alike"]
    for each in alike:
        names = [name for name in each.leads if name != SHUFFLED]
        won = beaten(each)
        lost = [name for name in names if name not in won]
        yield (
            f"{each.name}, texts alike: ahead of {', '.join(won) or 'nothing'}"
            + (f"; not of {', '.join(lost)}" if lost else "")
            + "."
        )
    if not all(set(beaten(each)) == set(each.leads) - {SHUFFLED} for each in alike):
        yield (
            "Where it is not ahead of every baseline it has found nothing that they do not tell: "
            "a policy on it counts in shadow, and is enforced for those alone who ask for that."
        )
    for each in alike:
        for name, score in each.scores.items():
            if name != PROBE and score.auroc.high < 0.5:
                yield (
                    f"{each.name}: {name} points the other way there ({score.auroc.estimate:.3f}); "
                    f"turned round it would have {1 - score.auroc.estimate:.3f}, though nothing "
                    "seen in the fit says to turn it."
                )
    strayed = [
        f"{each.scores[SHUFFLED].auroc.estimate:.3f} on {each.name}"
        for each in alike
        if not each.scores[SHUFFLED].auroc.low <= 0.5 <= each.scores[SHUFFLED].auroc.high
    ]
    if strayed:
        yield (
            f"The control has {', '.join(strayed)}: its labels were dealt out once, and intervals "
            "here are of test texts alone. A lead is to be read against that too."
        )
    harmless = [each for each in fired if not each.label and each.fired > each.target_fpr * each.n]
    if harmless:
        worst = max(harmless, key=lambda each: (-each.target_fpr, each.fired / each.n))
        yield (
            f"At fpr {worst.target_fpr:g} it still fires on {worst.fired} of {worst.n} harmless "
            f"texts of {worst.name}: the bound of a threshold is of texts like those it was set on."
        )
    yield (
        "Fitted on texts in lower case without final punctuation, one chat turn under the "
        f"template's own system prompt, {MAX_TOKENS} tokens at most with it; longer texts, other "
        "system prompts and later turns were not measured."
    )
