"""Two tensor-parallel workers give what one gives; two starts share no compiled graph."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.engine.scheduler import test_spec_decode
from tests.support.engines import draft_answers as drafted
from tests.support.engines.harness import engine
from tests.support.engines.own_process import said_by

pytestmark = [pytest.mark.engine, pytest.mark.full, pytest.mark.timeout(900)]


def answers(model: Path, cache: Path, *arguments: str) -> dict[str, list]:
    """What `tests.support.engines.print_answers` prints, from a process of its own."""
    said = said_by("tests.support.engines.print_answers", cache, str(model), *arguments)
    found: dict[str, list] = json.loads(said.splitlines()[-1])
    return found


def test_two_workers_answer_as_one(qwen3: Path, tmp_path: Path) -> None:
    one = answers(qwen3, tmp_path)
    two = answers(qwen3, tmp_path, "--workers", "2")
    assert two["tokens"] == one["tokens"]
    assert one["blocked"] == two["blocked"] == [True]
    for name in ("logprobs", "scores"):
        assert np.abs(np.array(one[name]) - np.array(two[name])).max() < 1e-4
    plain, steered = np.array(one["logprobs"])[:2]
    assert np.abs(plain - steered).max() > 0.05


def test_two_stages_answer_as_one(qwen3: Path, tmp_path: Path) -> None:
    one = answers(qwen3, tmp_path)
    two = answers(qwen3, tmp_path, "--stages", "2")
    assert two["tokens"] == one["tokens"]
    assert one["blocked"] == two["blocked"] == [True]
    for name in ("logprobs", "scores"):
        assert np.abs(np.array(one[name]) - np.array(two[name])).max() < 1e-4
    plain = np.array(one["logprobs"][0])
    for steered in one["logprobs"][1:]:
        assert np.abs(plain - np.array(steered)).max() > 0.05
    scores = np.array(one["scores"])
    assert scores.shape == (4, 6) and (np.ptp(scores, axis=0) > 1e-3).sum() >= 5
    first, last = two["installed"]
    assert (first["layers"], last["layers"]) == ([0, 1], [2, 3])
    sites = [[(tap["layer"], tap["site"]) for tap in each["taps"]] for each in (first, last)]
    assert sorted(sites[0]) == [(0, "embed"), (0, "resid_post"), (1, "resid_post")]
    assert sorted(sites[1]) == [(2, "resid_post"), (2, "resid_pre"), (3, "resid_post")]


@pytest.mark.parametrize("flags", [(), ("--v2",)], ids=["first runner", "second runner"])
def test_policies_scores_and_counts_of_two_stages_are_those_of_one(
    flags: tuple[str, ...], qwen3: Path, tmp_path: Path
) -> None:
    marks = drafted.answer_marks(qwen3)
    with engine(qwen3, drafted.world_plan(qwen3)) as started:
        plain = drafted.run(started, drafted.requests(marks))
    out = tmp_path / "found"
    said_by("tests.support.engines.draft_answers", tmp_path, str(qwen3), "stages", str(out), *flags)
    found, seen = pickle.loads(out.read_bytes())
    assert seen == []
    runs = test_spec_decode.ScoredSpans(plain, found, seen)
    test_spec_decode.test_answers_and_their_ends_are_those_without_drafts(runs)
    test_spec_decode.test_token_scores_are_those_without_drafts(runs)
    test_spec_decode.test_totals_and_rules_outcomes_are_those_without_drafts(runs)


def test_another_layer_list_is_another_compiled_graph(qwen3: Path, tmp_path: Path) -> None:
    first = answers(qwen3, tmp_path, "--compiled", "--layers", "1")
    second = answers(qwen3, tmp_path, "--compiled", "--layers", "2")
    again = answers(qwen3, tmp_path, "--compiled", "--layers", "1")
    eager = [answers(qwen3, tmp_path, "--layers", layer) for layer in ("1", "2")]
    assert np.abs(np.array(first["logprobs"]) - np.array(second["logprobs"])).max() > 0.05
    assert np.abs(np.array(first["logprobs"]) - np.array(again["logprobs"])).max() < 1e-5
    for compiled, plain in zip((first, second), eager, strict=True):
        assert np.abs(np.array(compiled["logprobs"]) - np.array(plain["logprobs"])).max() < 1e-4
