"""`vector fit`, end to end: vectors and figures equal those of transformers' own forward pass."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pilothouse.artifacts.vector import Vector, load_vector
from pilothouse.training.pair import Asked, Pair, divide, load_pairs
from pilothouse.training.report import FitReport
from pilothouse.training.selection import choose
from tests.reference.sae import Book
from tests.support.artifacts import sae_files as files
from tests.support.engines.harness import ENVIRONMENT
from tests.support.models.echo_model import D_MODEL, SEA, echo_pairs, make_echo_model, write_lines
from tests.support.training.fit_command import ENGINE, report_of, run_fit
from tests.support.training.planted_samples import cosine

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
SMALL = ("--controls", "2", "--resamples", "10")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, pairs, neutral texts and questions."""
    folder = tmp_path_factory.mktemp("fit")
    make_echo_model(folder / "echo")
    write_lines(folder / "pairs.jsonl", echo_pairs(20))
    texts = [{"text": f"the keeper writes the hour {n} in a long book"} for n in range(4)]
    write_lines(folder / "neutral.jsonl", texts)
    asked = [{"prompt": f"{n} how far the boats", "answer": "boats"} for n in range(4)]
    write_lines(folder / "facts.jsonl", asked)
    return folder


@pytest.fixture(scope="module")
def fitted(place: Path) -> tuple[Vector, FitReport]:
    """A whole fit at two layers and strengths."""
    out = place / "vectors" / "sea"
    done = run_fit(
        place / "pairs.jsonl",
        "--model",
        place / "echo",
        "--out",
        out,
        "--layers",
        "0,2",
        "--scales",
        "0.1,0.2",
        "--neutral",
        place / "neutral.jsonl",
        "--facts",
        place / "facts.jsonl",
        "--answer-tokens",
        "6",
        *SMALL,
    )
    assert done.exit_code == 0, done.output
    assert "wrote" in done.output and "unit: residual" in done.output
    return load_vector("sea", out), report_of(out)


class Reference:
    """transformers' own model, read and edited by hooks on its blocks."""

    def __init__(self, folder: Path, site: str = "resid_post") -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        blocks = self.model.model.layers
        self.places = [each.mlp for each in blocks] if site == "mlp_out" else list(blocks)

    def ids(self, asked: Asked, more: str) -> tuple[list[int], int]:
        if asked.messages is None:
            given = self.tokenizer.encode(asked.prompt)
        else:
            turns = [each.model_dump() for each in asked.messages]
            said = self.tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=False
            )
            given = self.tokenizer.encode(said, add_special_tokens=False)
        return given + self.tokenizer.encode(more, add_special_tokens=False), len(given)

    def state(self, asked: Asked, more: str, layer: int) -> np.ndarray:
        ids, start = self.ids(asked, more)
        seen: list[torch.Tensor] = []
        with self._hook(layer, lambda hidden: seen.append(hidden) or hidden), torch.no_grad():
            self.model(torch.tensor([ids]))
        return seen[0][0, start:].mean(dim=0).numpy().astype(np.float64)

    def mean_log_probability(
        self, asked: Asked, more: str, layer: int, edit: np.ndarray | None, on: str = "output"
    ) -> float:
        ids, start = self.ids(asked, more)
        added = torch.zeros(1, len(ids), D_MODEL)
        if edit is not None:
            where = {"prompt": slice(start), "output": slice(start, None), "all": slice(None)}[on]
            added[0, where] = torch.from_numpy(edit.astype(np.float32))
        with self._hook(layer, lambda hidden: hidden + added), torch.no_grad():
            logits = self.model(torch.tensor([ids])).logits[0]
        scored = torch.log_softmax(logits[start - 1 : -1], dim=-1)
        return float(scored[range(len(ids) - start), ids[start:]].mean())

    def effect(self, pair: Pair, layer: int, edit: np.ndarray, on: str = "output") -> float:
        """By how much an edit widens the margin between the sides of a pair."""
        margins = []
        for added in (edit, None):
            one, other = (
                self.mean_log_probability(pair, side, layer, added, on)
                for side in (pair.positive, pair.negative)
            )
            margins.append(one - other)
        return margins[0] - margins[1]

    @contextmanager
    def _hook(self, layer: int, change) -> Iterator[None]:  # type: ignore[no-untyped-def]
        def hook(_module: object, _given: object, output: object) -> object:
            if isinstance(output, tuple):
                return (change(output[0]), *output[1:])
            return change(output)

        handle = self.places[layer].register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def check_against(
    model: Reference, pairs: Sequence[Pair], vector: Vector, report: FitReport, on: str = "output"
) -> None:
    """The vector and its effect on test pairs are what transformers gives."""
    parts, layer = divide(pairs, report.seed), report.chosen_layer
    gaps = [
        model.state(pairs[n], pairs[n].positive, layer)
        - model.state(pairs[n], pairs[n].negative, layer)
        for n in parts.fit
    ]
    wanted = np.mean(gaps, axis=0)
    assert np.abs(vector.direction_D(layer) - wanted).max() < 1e-4 * np.linalg.norm(wanted)
    assert report.parts.fit == len(gaps) == 10
    edit = wanted / np.linalg.norm(wanted) * report.chosen_scale * vector.residual_norm(layer)
    effect = np.mean([model.effect(pairs[n], layer, edit, on) for n in parts.test])
    assert abs(effect) > 0.01
    assert report.test.effect.estimate == pytest.approx(effect, abs=1e-4)


def test_the_vector_and_its_effect_are_what_transformers_computes(
    place: Path, fitted: tuple[Vector, FitReport]
) -> None:
    pairs = load_pairs(place / "pairs.jsonl")
    check_against(Reference(place / "echo"), pairs, *fitted)
    assert fitted[1].test.effect.estimate > 0.05


@pytest.mark.full
@pytest.mark.parametrize(("on", "site"), [("prompt", "resid_post"), ("all", "mlp_out")])
def test_a_vector_elsewhere_has_the_effect_that_transformers_computes(
    on: str, site: str, place: Path
) -> None:
    out = place / f"{site}-{on}"
    done = run_fit(
        place / "pairs.jsonl",
        "--model",
        place / "echo",
        "--out",
        out,
        "--on",
        on,
        "--site",
        site,
        "--layers",
        "1",
        "--scales",
        "0.5",
        *SMALL,
    )
    assert done.exit_code in (0, 1), done.output
    vector, pairs = load_vector("v", out), load_pairs(place / "pairs.jsonl")
    assert (vector.site, vector.layers) == (site, (1,))
    check_against(Reference(place / "echo", site), pairs, vector, report_of(out), on)


@pytest.mark.full
def test_pairs_that_continue_conversations_are_put_as_the_chat_template_says(
    place: Path,
) -> None:
    shutil.copytree(place / "echo", place / "chatty")
    (place / "chatty" / "chat_template.jinja").write_text(
        "{% for each in messages %}{{ each.role }}: {{ each.content }} | {% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    talks = [
        {
            "messages": [
                {"role": "system", "content": "the keeper is kind"},
                {"role": "user", "content": pair.pop("prompt")},
            ]
        }
        | pair
        for pair in echo_pairs(20)
    ]
    write_lines(place / "talks.jsonl", talks)
    out = place / "talked"
    done = run_fit(
        place / "talks.jsonl",
        "--model",
        place / "chatty",
        "--out",
        out,
        "--layers",
        "1",
        "--scales",
        "0.2",
        *SMALL,
    )
    assert done.exit_code in (0, 1), done.output
    pairs = load_pairs(place / "talks.jsonl")
    check_against(Reference(place / "chatty"), pairs, load_vector("v", out), report_of(out))


def test_every_figure_stands_beside_its_controls(fitted: tuple[Vector, FitReport]) -> None:
    _, report = fitted
    kinds = [(each.kind, each.draw) for each in report.test.cells]
    assert kinds == [("fitted", 0), *((k, n) for k in ("random", "shuffled") for n in (0, 1))]
    assert len(report.sweep) == 2 * 2 * 5
    fitted_effect, *controls = (each.figures.effect for each in report.test.cells)
    assert fitted_effect > max(map(abs, controls))
    assert all(each.figures.facts_kept is not None for each in report.sweep)
    assert report.findings == ()
    assert set(report.data_sha256) == {"pairs", "neutral", "facts"}


def test_the_folder_has_card_and_plot(place: Path, fitted: tuple[Vector, FitReport]) -> None:
    folder = place / "vectors" / "sea"
    names = {"manifest.json", "weights.safetensors", "fit.json", "README.md", "sweep.svg"}
    assert {each.name for each in folder.iterdir()} == names
    assert [each.name for each in folder.parent.iterdir()] == ["sea"]
    card = (folder / "README.md").read_text()
    for section in ("Findings", "On test pairs", "Directions", "Sweep", "Made of"):
        assert f"## {section}" in card
    assert "| random 0 |" in card and "| shuffled 1 |" in card and fitted[0].digest in card
    picture = ElementTree.parse(folder / "sweep.svg").getroot()
    lines = picture.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert len([each for each in lines if each.get("stroke", "").startswith("hsl")]) == 2 * 2


def test_features_of_an_sae_are_chosen_by_name_and_common_ones_left_out(place: Path) -> None:
    model = Reference(place / "echo")
    words = {each: model.tokenizer.encode(" " + each)[0] for each in SEA[:3]}
    embeddings = model.model.get_input_embeddings().weight.detach().numpy().astype(np.float64)
    rows = embeddings[list(words.values())]
    other = np.random.default_rng(0).normal(size=(20, D_MODEL))
    rows = np.concatenate([rows, other])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    common = rows[:3].sum(axis=0, keepdims=True)  # the largest gap, and on everywhere
    rows = np.concatenate([rows, common / np.linalg.norm(common)])
    count = len(rows)
    bias = np.array([*[-0.8] * (count - 1), 20.0])
    made = Book(W_enc=rows.T, W_dec=rows, b_dec=np.zeros(D_MODEL), b_enc=bias, form="relu")
    folder = files.saelens(
        place / "words",
        made,
        d_in=D_MODEL,
        d_sae=count,
        metadata={"model_name": "echo", "hook_name": "blocks.1.hook_resid_post"},
    )
    files.write_json(folder / "labels.json", {str(n): word for n, word in enumerate(words)})
    out = place / "by-words"
    done = run_fit(
        place / "pairs.jsonl",
        "--model",
        place / "echo",
        "--out",
        out,
        "--sae",
        folder,
        "--features",
        "2",
        "--scales",
        "0.2",
        "--json",
        *SMALL,
    )
    assert done.exit_code in (0, 1), done.output
    report = report_of(out)
    assert json.loads(done.stdout) == report.model_dump(mode="json")
    assert done.exit_code == bool(report.findings)
    assert (report.method, report.site, report.chosen_layer) == ("sae-features", "resid_post", 1)
    chosen = report.layers[0].facts["features"]
    assert {each["label"] for each in chosen} <= set(words) and len(chosen) == 2
    direction = load_vector("v", out).direction_D(1)
    assert direction == pytest.approx(
        rows[[each["feature"] for each in chosen]].sum(axis=0), abs=1e-5
    )


@pytest.mark.full
@pytest.mark.parametrize("search", [("--scales", "0.1"), ("--search", "staged")])
def test_the_same_order_gives_the_same_files_but_for_seconds(
    place: Path, tmp_path: Path, search: tuple[str, str]
) -> None:
    outs = [tmp_path / "one" / "v", tmp_path / "two" / "v"]
    for out in outs:
        done = run_fit(
            place / "pairs.jsonl",
            "--model",
            place / "echo",
            "--out",
            out,
            "--method",
            "ridge",
            *search,
            *SMALL,
        )
        assert done.exit_code in (0, 1), done.output
    for name in ("manifest.json", "weights.safetensors", "README.md", "sweep.svg"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes(), name
    seconds = re.compile(r'"(cpu_)?seconds": [\d.]+')
    one, two = (seconds.sub("", (out / "fit.json").read_text()) for out in outs)
    assert one == two


STAGES = [
    "reading",
    "engine",
    "answers",
    "states",
    "directions",
    "screen",
    "search",
    "controls",
    "test",
]


@pytest.fixture(scope="module")
def staged(place: Path) -> FitReport:
    """A fit that was told neither layers nor strengths."""
    return _staged(place / "pairs.jsonl", place, place / "staged")


def _staged(pairs: Path, place: Path, out: Path) -> FitReport:
    done = run_fit(
        pairs, "--model", place / "echo", "--out", out, "--facts", place / "facts.jsonl", *SMALL
    )
    assert done.exit_code in (0, 1), done.output
    return report_of(out)


def test_a_staged_search_tells_what_it_looked_at_and_what_that_cost(staged: FitReport) -> None:
    search = staged.search
    assert (search.kind, search.screen_scale) == ("staged", 0.1)
    assert [each.layer for each in search.layers] == [0, 1, 2]
    assert all(each.searched and each.why == "searched" for each in search.layers)
    assert all(each.separation and each.screened and each.reach for each in search.layers)
    assert search.screen_pairs == search.search_pairs == staged.parts.choose == 5
    assert len({(each.layer, each.scale) for each in staged.sweep}) == len(staged.sweep) > 3
    assert {each.kind for each in staged.sweep} == {"fitted"}
    assert [each.name for each in staged.stages] == STAGES
    cost = {each.name: each for each in staged.stages}
    assert cost["screen"].texts == (3 + 1) * (2 * 5 + 5)  # unsteered, too; answers are neutral
    assert cost["test"].tokens > 0


def test_a_staged_search_chooses_the_best_of_what_it_tried(staged: FitReport) -> None:
    best = choose(staged.sweep, staged.max_perplexity_ratio)
    assert (best.layer, best.scale) == (staged.chosen_layer, staged.chosen_scale)
    assert staged.test.effect.low > 0
    assert staged.test.cells[0].figures.facts_kept is not None


def test_controls_choose_their_layer_as_the_vector_did(staged: FitReport) -> None:
    choices = staged.search.controls
    assert len(choices) == 2 * 2
    tested = {(each.kind, each.draw): each for each in staged.test.cells[1:]}
    for each in choices:
        assert set(each.effects) == {0, 1, 2}
        assert each.layer == max(each.effects, key=lambda layer: each.effects[layer])
        cell = tested[each.kind, each.draw]
        assert (cell.layer, cell.scale) == (each.layer, staged.chosen_scale)


def test_the_card_of_a_staged_search_says_so(staged: FitReport, place: Path) -> None:
    card = (place / "staged" / "README.md").read_text()
    assert "## Screen" in card and "No test pair was looked at." in card
    assert "the one at which it did most on the pairs that chose" in card
    picture = ElementTree.parse(place / "staged" / "sweep.svg").getroot()
    dots = picture.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(dots) == 2 * (3 + len(staged.sweep))


@pytest.mark.full
def test_a_staged_search_never_looks_at_test_pairs(
    staged: FitReport, place: Path, tmp_path: Path
) -> None:
    pairs = echo_pairs(20)
    tested = divide(load_pairs(place / "pairs.jsonl"), 0).test
    for number in tested:
        pair = pairs[number]
        pair["positive"], pair["negative"] = pair["negative"], pair["positive"] + " tide"
    write_lines(tmp_path / "pairs.jsonl", pairs)
    other = _staged(tmp_path / "pairs.jsonl", place, tmp_path / "v")
    assert other.test.effect.high < 0 < staged.test.effect.low
    assert (other.search, other.layers) == (staged.search, staged.layers)
    assert (other.chosen_layer, other.chosen_scale) == (staged.chosen_layer, staged.chosen_scale)


@pytest.mark.full
def test_a_staged_search_does_as_well_as_a_full_sweep(
    staged: FitReport, place: Path, tmp_path: Path
) -> None:
    done = run_fit(
        place / "pairs.jsonl",
        "--model",
        place / "echo",
        "--out",
        tmp_path / "v",
        "--search",
        "full",
        *SMALL,
    )
    assert done.exit_code in (0, 1), done.output
    full = report_of(tmp_path / "v")
    assert len(full.sweep) == 3 * 4 * 5
    assert staged.test.effect.estimate >= full.test.effect.low


@pytest.mark.full
def test_a_tuned_model_gives_what_it_differs_in(place: Path) -> None:
    make_echo_model(place / "tilted", tilt=" boats")
    out = place / "tilt"
    done = run_fit(
        place / "pairs.jsonl",
        "--model",
        place / "echo",
        "--tuned",
        place / "tilted",
        "--out",
        out,
        "--layers",
        "0",
        "--scales",
        "0.1",
        *SMALL,
    )
    assert done.exit_code in (0, 1), done.output
    report = report_of(out)
    assert report.method == "tuned-difference"
    plain, tilted = Reference(place / "echo"), Reference(place / "tilted")
    pairs = load_pairs(place / "pairs.jsonl")
    gaps = [
        tilted.state(pairs[n], side, 0) - plain.state(pairs[n], side, 0)
        for n in divide(pairs, 0).fit
        for side in (pairs[n].positive, pairs[n].negative)
    ]
    assert cosine(load_vector("v", out).direction_D(0), np.mean(gaps, axis=0)) > 0.99999


@pytest.mark.full
@pytest.mark.parametrize("method", ["pca", "ridge"])
def test_the_other_methods_steer_too(place: Path, method: str) -> None:
    out = place / method
    done = run_fit(
        place / "pairs.jsonl",
        "--model",
        place / "echo",
        "--out",
        out,
        "--method",
        method,
        "--layers",
        "2",
        "--scales",
        "0.2",
        *SMALL,
    )
    assert done.exit_code in (0, 1), done.output
    assert report_of(out).test.effect.estimate > 0.1


@pytest.mark.full
def test_pairs_whose_sides_mean_nothing_are_a_finding(place: Path) -> None:
    sides = ("positive", "negative")
    draw = np.random.default_rng(0)
    pairs = [
        pair
        if draw.random() < 0.5
        else pair | dict(zip(sides, (pair[s] for s in sides[::-1]), strict=True))
        for pair in echo_pairs(20)
    ]
    write_lines(place / "noise.jsonl", pairs)
    out = place / "noise"
    done = run_fit(
        place / "noise.jsonl",
        "--model",
        place / "echo",
        "--out",
        out,
        "--layers",
        "0",
        "--scales",
        "0.05",
        *SMALL,
    )
    assert done.exit_code == 1, done.output
    assert "finding" in done.output
    assert report_of(out).findings
    assert load_vector("v", out).layers == (0,)


@pytest.mark.full
def test_ctrl_c_leaves_nothing(place: Path, tmp_path: Path) -> None:
    scratch, outs = tmp_path / "scratch", tmp_path / "outs"
    scratch.mkdir()
    outs.mkdir()
    words = ["vector", "fit", place / "pairs.jsonl", "--model", place / "echo"]
    words += ["--out", outs / "v", "--controls", "20", "--scales", "0.1,0.2,0.3,0.4,0.5,0.6"]
    code = "from pilothouse.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words), *ENGINE],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, **ENVIRONMENT, "TMPDIR": str(scratch)},
    )
    deadline = time.monotonic() + 200
    while not list(scratch.glob("pilothouse-fit-*/swept/fitted-0")):  # the sweep begins
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=100)
    assert process.returncode == 130, told
    assert list(outs.iterdir()) == []
    assert not list(scratch.glob("pilothouse-fit-*"))


WRONG = [
    (("--method", "magic"), "--method: got 'magic', want one of difference-of-means"),
    (("--method", "sae-features"), "sae-features goes with --sae"),
    (("--method", "pca", "--tuned", "other"), "each with nothing else"),
    (("--layers", "4-2"), "--layers: got '4-2'"),
    (("--site", "nowhere"), "--site: got 'nowhere', want one of embed"),
    (("--token", "middle"), "--token: got 'middle', want one of mean"),
    (("--on", "never"), "--on: got 'never', want one of prompt"),
    (("--scales", "0.1,-1"), "--scales: got '0.1,-1', want positive numbers"),
    (("--scales", "much"), "--scales: got 'much'"),
    (("--search", "quick"), "--search: got 'quick', want one of staged, full"),
    (("--layers", ""), "--layers: got ''"),
    (("--neutral", "nothing.jsonl"), "nothing.jsonl: cannot be read"),
    (("--out", "."), "want a new or empty folder"),
]


@pytest.mark.parametrize(("words", "told"), WRONG)
def test_options_that_do_not_fit_are_wrong_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "pairs.jsonl", echo_pairs(10))
    done = run_fit("pairs.jsonl", "--model", "echo", "--out", "out", *words)
    assert (done.exit_code, told in done.output) == (2, True), done.output
    assert [each.name for each in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_malformed_pairs_are_told_before_an_engine_starts(tmp_path: Path) -> None:
    write_lines(tmp_path / "pairs.jsonl", [*echo_pairs(10), {"positive": "only"}])
    done = run_fit(tmp_path / "pairs.jsonl", "--model", "nothing", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "line 11: negative: Field required" in done.output
