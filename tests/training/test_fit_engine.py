"""A fit's engine: what texts share is computed once, and no score changes by that."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from pilothouse.artifacts.vector import build_vector, save_vector
from pilothouse.term import SteerTerm
from pilothouse.training.fit_engine import FitEngine
from pilothouse.training.scored_text import Said, ScoredText, forced
from tests.support.engines.harness import ENVIRONMENT, environment
from tests.support.models.echo_model import D_MODEL, NUM_LAYERS, make_echo_model

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
BLOCK = 32
PROMPT = tuple(5 + n % 90 for n in range(3 * BLOCK + 5))
"""Longer than three blocks, so that three can be shared."""
LINES = tuple(
    ScoredText((*PROMPT, *(40 + n + more for n in range(8))), len(PROMPT)) for more in (0, 9)
)
LAYERS = tuple(range(NUM_LAYERS))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FitEngine]:
    folder = tmp_path_factory.mktemp("engine")
    model = str(make_echo_model(folder / "echo"))
    settings = {
        "dtype": "float32",
        "kv_cache_memory_bytes": 32 << 20,
        "block_size": BLOCK,
        "max_num_batched_tokens": 64,
        "max_num_seqs": 8,
        "distributed_executor_backend": "uni",
    }
    draw = np.random.default_rng(0)
    vector = build_vector(
        "v",
        model_id="echo",
        layers=LAYERS,
        created_by="a test",
        site="resid_post",
        directions_LD=draw.normal(size=(NUM_LAYERS, D_MODEL)).astype(np.float32),
        residual_norms_L=np.full(NUM_LAYERS, 4.0, np.float32),
        d_model=D_MODEL,
    )
    save_vector(vector, folder / "v")
    with environment(ENVIRONMENT):
        made = FitEngine(model, "echo", settings, "resid_post", None)
        made.load({"v": folder / "v"})
        yield made
        made.close()


def terms(on: str, scale: float) -> list[SteerTerm | None]:
    return [forced("v", layer, scale, on, line) for layer in LAYERS for line in LINES]  # type: ignore[arg-type]


def said(
    engine: FitEngine, asked: list[SteerTerm | None], tops: bool = True
) -> tuple[list[Said], int]:
    """What is said of both lines under each pair of terms, and how many tokens that took."""
    before = engine.tokens
    lines = LINES * (len(asked) // 2)
    found = engine.say(lines, asked, [tops] * len(lines), lambda _: None)
    return found, engine.tokens - before


def check_same(one: list[Said], other: list[Said]) -> None:
    for mine, its in zip(one, other, strict=True):
        assert mine.log_probabilities_T == pytest.approx(its.log_probabilities_T, abs=1e-5)
        assert (mine.is_first_T == its.is_first_T).all()
        for tops, its_tops in zip(mine.tops, its.tops, strict=True):
            assert tops == pytest.approx(its_tops, abs=1e-5)


def alone(engine: FitEngine, asked: list[SteerTerm | None], tops: bool) -> list[Said]:
    """The same one by one, without what others computed."""
    found: list[Said] = []
    for line, term in zip(LINES * (len(asked) // 2), asked, strict=True):
        engine.llm.reset_prefix_cache()
        found += engine.say([line], [term], [tops], lambda _: None)
    return found


@pytest.mark.parametrize("on", ["output", "prompt", "all"])
def test_what_is_shared_is_computed_once_and_scores_stay(engine: FitEngine, on: str) -> None:
    asked = terms(on, 0.3)
    wanted = alone(engine, asked, True)
    engine.llm.reset_prefix_cache()
    found, computed = said(engine, asked)
    check_same(found, wanted)
    whole = sum(len(line.ids) for line in LINES) * NUM_LAYERS
    shared = 3 * BLOCK
    prompts = 1 if on == "output" else NUM_LAYERS  # an edited prompt is no other edit's
    assert computed == whole - shared * (2 * NUM_LAYERS - prompts)


def test_edits_are_told_apart_though_they_run_together(engine: FitEngine) -> None:
    found, _ = said(engine, [*terms("output", 0.3), *terms("output", -0.3), None, None])
    means = [each.mean for each in found]
    assert len({round(each, 4) for each in means}) == len(means)


def test_what_was_asked_before_is_scored_again(engine: FitEngine) -> None:
    asked = terms("output", 0.7)
    first, _ = said(engine, asked)
    again, _ = said(engine, asked)  # their answers lie in the cache now, where there are no scores
    check_same(first, again)


def test_an_unsteered_text_that_the_model_wrote_itself_is_scored(engine: FitEngine) -> None:
    [answer] = engine.answers([PROMPT], [None], 2 * BLOCK, lambda _: None)
    line = ScoredText((*PROMPT, *answer), len(PROMPT))
    [found] = engine.say([line], [None], [False], lambda _: None)
    assert len(found.log_probabilities_T) == len(answer)
    assert found.is_first_T.all()  # greedy
    assert found.tops == ()


def test_progress_counts_every_text(engine: FitEngine) -> None:
    done: list[int] = []
    asked = terms("output", 0.2)
    engine.say(LINES * NUM_LAYERS, asked, [False] * len(asked), done.append)
    assert sum(done) == len(asked)
