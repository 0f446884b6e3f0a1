"""`probe fit` and `probe eval`, end to end: figures, files, resumption, and what is served."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm import SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

from pilothouse.artifacts.probe import build_probe, load_probe, save_probe
from pilothouse.engine.vllm.rpc import shut_down
from pilothouse.errors import ConfigError
from pilothouse.head import Head
from pilothouse.llm import LLM
from pilothouse.probes.calibration import apply
from pilothouse.probes.card import card_of
from pilothouse.probes.report import Evaluation
from pilothouse.training import FittedProbe, eval_probe, fit_probe
from pilothouse.training.probe_material import usual_layers
from tests.support.engines.harness import ENVIRONMENT, environment
from tests.support.models.echo_model import make_echo_model
from tests.support.training.labelled_texts import sea_and_land, write_csv
from tests.support.training.probe_command import run_probe

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
ENGINE = {
    "kv_cache_memory_bytes": 32 << 20,
    "max_num_seqs": 64,
    "distributed_executor_backend": "uni",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a file of two sources, and one of a third."""
    folder = tmp_path_factory.mktemp("probe")
    make_echo_model(folder / "echo")
    rows = sea_and_land(150, source="a") + sea_and_land(150, source="b")
    write_csv(folder / "texts.csv", rows)
    write_csv(folder / "other.csv", sea_and_land(60, source="c"))
    return folder


@pytest.fixture(scope="module")
def fitted(place: Path) -> Path:
    """A probe that the verb has made."""
    out = place / "probes" / "sea"
    done = run_probe(
        "fit",
        place / "texts.csv",
        "--model",
        place / "echo",
        "--out",
        out,
        "--test",
        f"elsewhere={place / 'other.csv'}",
        "--cache",
        place / "cache",
    )
    assert done.exit_code in (0, 1), done.output
    assert "thresholds at fpr 0.1\n" in done.output
    return out


def evaluation_of(folder: Path) -> Evaluation:
    return Evaluation.model_validate_json((folder / "evaluation.json").read_text())


def test_every_test_stands_beside_every_baseline_in_both_forms(fitted: Path) -> None:
    found = evaluation_of(fitted)
    assert [(each.name, each.kind, each.form) for each in found.held_out] == [
        ("held-out rows", "same sources", "as written"),
        ("held-out rows", "same sources", "alike"),
        ("elsewhere", "test file", "as written"),
        ("elsewhere", "test file", "alike"),
        ("a", "source left out", "as written"),
        ("b", "source left out", "as written"),
    ]
    wanted = {"TF-IDF", "shape", "length", "shuffled labels", "difference of means"}
    for each in found.held_out:
        assert wanted <= set(each.baselines)
        has_all = each.form == "as written" and each.kind != "source left out"
        assert ("mean log-probability" in each.baselines) == has_all
        assert each.probe.auroc.estimate > 0.9
    assert not any("prove little" in each for each in found.remarks)
    assert {each.use for each in found.files} == {"fit, calibration, test", "test elsewhere"}


def test_the_card_is_made_of_the_files_beside_it(fitted: Path) -> None:
    card = (fitted / "README.md").read_text()
    assert card == card_of(fitted)
    for heading in ("## Held out", "## Held out, beside baselines", "## Files", "## Thresholds"):
        assert heading in card


def test_a_recipe_makes_the_same_probe_again_without_an_engine(place: Path, fitted: Path) -> None:
    out = place / "probes" / "again"
    done = run_probe(
        "fit",
        "--recipe",
        fitted / "recipe.json",
        "--out",
        out,
        "--cache",
        place / "cache",
        engine=False,
    )
    assert done.exit_code in (0, 1), done.output
    assert "starting the engine" not in done.output
    one, again = load_probe("sea", fitted), load_probe("again", out)
    assert np.array_equal(one.weights_LD, again.weights_LD)
    assert one.readouts == again.readouts
    first, second = (evaluation_of(each).model_dump(exclude={"probe"}) for each in (fitted, out))
    assert first == second


@pytest.fixture(scope="module")
def served(place: Path, fitted: Path) -> Iterator[LLM]:
    """The engine with the probe, as a server has it."""
    config = place / "pilothouse.yaml"
    config.write_text(f"version: 1\nmodel_id: echo\nprobes: {{sea: {{path: {fitted}}}}}\n")
    with environment(ENVIRONMENT):
        llm = LLM(
            str(place / "echo"),
            pilothouse_config=config,
            dtype="float32",
            enforce_eager=True,
            **ENGINE,
        )
        yield llm
        shut_down(llm)
        cleanup_dist_env_and_memory()


def test_what_is_served_is_what_transformers_reads(place: Path, fitted: Path, served: LLM) -> None:
    """The value over chat is the row on the hidden state where the assistant's turn opens."""
    probe = load_probe("sea", fitted)
    readout = probe.readouts["prompt"]
    texts = [str(each["text"]) for each in sea_and_land(12, source="d")]
    asked = [[{"role": "user", "content": each}] for each in texts]
    outputs = served.chat(
        asked, SamplingParams(temperature=0.0, max_tokens=1), probes=["sea"], use_tqdm=False
    )
    tokenizer = AutoTokenizer.from_pretrained(place / "echo")
    model = AutoModelForCausalLM.from_pretrained(place / "echo", dtype=torch.float32).eval()
    for turns, output in zip(asked, outputs, strict=True):
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        hidden_LD = np.stack([states[each + 1][0, -1].numpy() for each in probe.layers])
        logit = float((hidden_LD * probe.weights_LD).sum()) + probe.bias
        want = float(apply(logit, readout.slope, readout.offset))
        assert output.outputs[0].pilothouse["scores"]["sea/prompt"] == pytest.approx(want, abs=1e-4)


def test_eval_has_the_figures_of_the_card(place: Path, fitted: Path) -> None:
    """On the test file itself the figures are those that the fit measured there."""
    done = run_probe("eval", fitted, place / "other.csv", "--cache", place / "cache", "--json")
    assert done.exit_code in (0, 1), done.output
    found = json.loads(done.stdout[done.stdout.index("{\n") :])
    [readout] = found["readouts"].values()
    card = next(
        each
        for each in evaluation_of(fitted).held_out
        if (each.name, each.form) == ("elsewhere", "as written")
    )
    assert readout["figures"]["auroc"]["estimate"] == pytest.approx(
        card.probe.auroc.estimate, abs=1e-6
    )
    assert readout["figures"]["n_positive"] + card.overlapping >= card.probe.n_positive
    again = run_probe("eval", fitted, place / "other.csv", "--cache", place / "cache")
    assert "AUROC" in again.output and "at fpr 0.1" in again.output


def test_eval_of_harmless_texts_alone_says_what_fires(place: Path, fitted: Path) -> None:
    rows = [each for each in sea_and_land(60, source="e") if not each["label"]]
    found = eval_probe(
        fitted, write_csv(place / "land.csv", rows), engine=ENGINE, cache=place / "cache"
    )
    readout = found.readouts["prompt"]
    assert readout.figures is None
    assert {(each.label, each.n) for each in readout.fired} == {(False, 30)}


def test_eval_measures_a_head_that_pools(place: Path, fitted: Path) -> None:
    """One head of MultiMax is the largest of a row's logits, whose figures are known."""
    linear = load_probe("sea", fitted)
    (name, readout), *_ = linear.readouts.items()

    def saved(called: str, kind: str, **numbers: Any) -> Path:
        aggregate = readout.aggregate.model_copy(update={"kind": kind})
        probe = build_probe(
            called,
            model_id=linear.model_id,
            layers=linear.layers,
            bias=linear.bias,
            token_slope=1.0,
            token_offset=0.0,
            readouts={name: readout.model_copy(update={"aggregate": aggregate})},
            default_readout=name,
            created_by="a test",
            **numbers,
        )
        save_probe(probe, place / "heads" / called)
        return place / "heads" / called

    values_LHD = linear.weights_LD[:, None]
    folders = (
        saved("largest", "max", weights_LD=linear.weights_LD),
        saved("pooled", "last", head=Head(kind="multimax", heads=1), arrays={"values": values_LHD}),
    )
    largest, pooled = (
        eval_probe(
            folder,
            place / "other.csv",
            model=str(place / "echo"),
            engine=ENGINE,
            cache=place / "cache",
        ).readouts[name]
        for folder in folders
    )
    assert largest.figures is not None and pooled.figures == largest.figures
    assert pooled.fired == largest.fired


class Stop(Exception):
    """What stands for Ctrl-C where a signal would end pytest."""


def test_a_run_that_was_ended_goes_on_where_it_was(place: Path) -> None:
    """The texts read before the end are not read again."""
    told: list[tuple[str, int]] = []

    def phase(ends: bool) -> Callable[[str, int | None], Callable[[int], None]]:
        def begin(title: str, _total: int | None) -> Callable[[int], None]:
            def advance(count: int) -> None:
                told.append((title, count))
                if ends and title == "reading texts" and count:
                    raise Stop

            return advance

        return begin

    def fit(ends: bool) -> FittedProbe:
        with environment(ENVIRONMENT):
            return fit_probe(
                place / "texts.csv",
                model=str(place / "echo"),
                name="again",
                layers=[1],
                dtype="float32",
                engine=ENGINE,
                cache=place / "other-cache",
                phase=phase(ends),
            )

    with pytest.raises(Stop):
        fit(True)
    read = told[-1][1]
    assert read == 64
    told.clear()
    fitted = fit(False)
    assert told[0] == ("reading texts", read)
    assert fitted.probe.layers == (1,)


def test_answers_are_read_behind_their_prompts(place: Path) -> None:
    """The readout of answers that does best is served under the scope of the output."""
    rows: list[dict[str, Any]] = [
        {"text": f"where {n}", "answer": each["text"], "label": each["label"]}
        for n, each in enumerate(sea_and_land(80, source="f"))
    ]
    with environment(ENVIRONMENT):
        fitted = fit_probe(
            write_csv(place / "answers.csv", rows),
            model=str(place / "echo"),
            name="answers",
            dtype="float32",
            engine=ENGINE,
            cache=place / "cache",
        )
    [(name, readout)] = fitted.probe.readouts.items()
    assert readout.scope == "output" and name in ("answer_end", "answer_mean")
    assert any("prove little" in each for each in fitted.evaluation.remarks)
    fitted.save(place / "probes" / "answers")
    with environment(ENVIRONMENT):
        found = eval_probe(
            place / "probes" / "answers",
            place / "answers.csv",
            engine=ENGINE,
            cache=place / "cache",
        )
    figures = found.readouts[name].figures
    assert figures is not None and figures.auroc.estimate > 0.9


def test_labels_that_punctuation_tells_are_a_finding(place: Path) -> None:
    rows = sea_and_land(60, source="s", shaped=True)
    with environment(ENVIRONMENT):
        fitted = fit_probe(
            write_csv(place / "shaped.csv", rows),
            model=str(place / "echo"),
            name="shaped",
            layers=[1],
            dtype="float32",
            engine=ENGINE,
            cache=place / "cache",
        )
    findings = "\n".join(fitted.evaluation.findings)
    assert "How texts are written tells the labels apart" in findings
    assert "as written: no gain over" in findings


WRONG = [
    (("--fpr", "0.001"), "fpr 0.001: got 30 negatives to calibrate on, want at least 2995"),
    (("--fpr", "2"), "target_fprs.0: Input should be less than 1"),
    (("--layers", "9"), "layers: got [9], want numbers from 0 to 2"),
    (("--layers", "2-1"), "--layers: got '2-1'"),
    (("--readouts", "median"), "readouts.0: Input should be"),
    (("--fit-on", "loud"), "--fit-on: got 'loud', want one of written, alike"),
    (("--test", "nothing"), "--test: got 'nothing', want NAME=VALUE"),
    (("--column", "words=text"), "column: got words=..."),
    (("--max-tokens", "2"), "texts of more than 2 tokens"),
    (("--out", "."), "want a new or empty folder"),
]


@pytest.mark.parametrize(("words", "told"), WRONG)
def test_what_cannot_be_is_told_before_an_engine_starts(
    place: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(place)
    done = run_probe("fit", "texts.csv", "--model", "echo", "--out", "out", *words)
    assert (done.exit_code, told in done.output) == (2, True), done.output
    assert "starting the engine" not in done.output
    assert not (place / "out").exists()


def test_too_few_texts_are_refused_with_the_number_that_is_needed(place: Path) -> None:
    write_csv(place / "few.csv", sea_and_land(12))
    with pytest.raises(ConfigError, match=r"got 6 groups with a positive and 6 .* at least 10"):
        fit_probe(place / "few.csv", model=str(place / "echo"), name="few")
    write_csv(place / "one.csv", [each for each in sea_and_land(60) if each["label"]])
    with pytest.raises(ConfigError, match="a file of one label alone can be a --test"):
        fit_probe(place / "one.csv", model=str(place / "echo"), name="one")


@pytest.mark.parametrize(("count", "want"), [(1, (0,)), (3, (0, 1)), (4, (0, 1, 2))])
def test_small_models_are_read_at_all_layers_but_the_last(
    count: int, want: tuple[int, ...]
) -> None:
    assert usual_layers(count) == want
    assert len(usual_layers(30)) == len(usual_layers(80)) == 10
    assert usual_layers(30)[0] == 4 and usual_layers(30)[-1] == 28
