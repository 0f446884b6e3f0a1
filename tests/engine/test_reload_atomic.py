"""Reload-atomic: one request, one revision; what is loaded at run time is as if it had been there.

Orders reach the scheduler as they do in a server, through the engine core's utility method.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilothouse.artifacts.catalog import Catalog
from pilothouse.artifacts.vector import Vector, build_vector
from pilothouse.engine.plan.build import resolve_plan
from pilothouse.engine.plan.plan import Plan
from pilothouse.term import Positions, SteerTerm
from tests.support.engines.catalogs import vector
from tests.support.engines.harness import (
    BLOCK,
    Engine,
    all_logprobs,
    engine,
    make_plan,
    random_rows,
)

pytestmark = pytest.mark.engine

PROMPT = np.random.default_rng(11).integers(3, 256, 2 * BLOCK + 5).tolist()
TAPS: dict[str, Any] = {"resid_post": [1], "mlp_out": [2], "operators": ["add", "ablate"]}
V = SteerTerm(vector="v", scale=1.0, on="all")
W = SteerTerm(vector="w", scale=1.0, on="all")
CLEAN = SteerTerm(vector="w", op="ablate", on="all")
TOKENS = 24


def at_mlp(name: str, seed: int) -> Vector:
    """A vector at the site that is reserved beside the stream's own."""
    return build_vector(
        name,
        model_id="tiny",
        layers=(2,),
        directions_LD=random_rows(seed, 1, norm=40.0),
        residual_norms_L=np.array([9.0], np.float32),
        created_by="tests",
        site="mlp_out",
    )


def loaded(**more: Vector) -> Catalog:
    return Catalog(vectors={"v": vector("v", (1,), norm=8.0), **more})


def start_plan(catalog: Catalog) -> Plan:
    return make_plan(catalog, taps=TAPS)


def control(started: Engine, order: str, *arguments: Any) -> Any:
    return started.core.pilothouse_control(order, [0, *arguments])


def load(started: Engine, catalog: Catalog) -> Plan:
    """Prepare, activate, and seal under it from now on; the plan before is still held."""
    before = started.plan
    assert before is not None
    control(started, "newest", before.revision)
    plan = resolve_plan(before.config, catalog, (), before.body.model, running=before)
    assert control(started, "prepare", plan.revision, plan.to_wire()).result() == ""
    assert control(started, "activate", before.revision, plan.revision)
    started.plan = plan
    return before


def ask(started: Engine, *steer: SteerTerm) -> tuple[np.ndarray, list[int], int]:
    """Log-probabilities [T, V], tokens, and how many came from the cache."""
    [output] = started.run([PROMPT], started.params(steer=steer, logprobs=-1))
    return all_logprobs(output), list(output.outputs[0].token_ids), output.num_cached_tokens


def worker(started: Engine) -> Any:
    return started.core.model_executor.driver_worker.worker


@pytest.fixture(params=["eager", pytest.param("compiled", marks=pytest.mark.full)])
def mode(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"enforce_eager": request.param == "eager"}


@pytest.fixture(scope="module")
def house(qwen3: Path) -> Iterator[Engine]:
    with engine(qwen3, start_plan(Catalog()), enable_prefix_caching=True) as started:
        yield started


@pytest.fixture
def empty(house: Engine) -> Engine:
    """The engine with nothing loaded; its plan, once it has one, is the newest."""
    load(house, Catalog())
    house.reset_cache()
    return house


def test_a_vector_loaded_at_run_time_steers_as_one_that_was_there(
    qwen3: Path, mode: dict[str, Any]
) -> None:
    import torch._dynamo

    terms = ((V,), (W,), (V, W), (CLEAN,))
    with engine(qwen3, start_plan(loaded(w=at_mlp("w", 5))), **mode) as started:
        wanted = [ask(started, *each)[0] for each in terms]
        plain = ask(started)[0]
    torch._dynamo.utils.counters.clear()
    with engine(qwen3, start_plan(Catalog()), **mode) as started:
        tap_manager, model = worker(started).pilothouse, worker(started).model_runner.get_model()
        assert np.array_equal(ask(started)[0], plain)
        compiled = dict(torch._dynamo.utils.counters["stats"])
        assert bool(compiled) is not mode["enforce_eager"]
        load(started, loaded(w=at_mlp("w", 5)))
        got = [ask(started, *each)[0] for each in terms]
        assert dict(torch._dynamo.utils.counters["stats"]) == compiled
        assert worker(started).pilothouse is tap_manager
        assert worker(started).model_runner.get_model() is model
    for want, have in zip(wanted, got, strict=True):
        assert np.array_equal(want, have)
        assert np.abs(want - plain).max() > 0.05


def test_a_request_in_flight_keeps_its_vector_to_the_end(empty: Engine) -> None:
    old, new = loaded(w=at_mlp("w", 5)), loaded(w=at_mlp("w", 6))
    load(empty, old)
    [said] = empty.tokens([PROMPT], empty.params(steer=[V], max_tokens=TOKENS))
    trigger = next(each for each in said if said.index(each) >= 4)
    steer = (V, SteerTerm(vector="w", scale=1.0, positions=Positions(after=(trigger,))))

    def alone() -> list[int]:
        [tokens] = empty.tokens([PROMPT], empty.params(steer=steer, max_tokens=TOKENS))
        return tokens

    wanted = alone()
    empty.add("first", PROMPT, empty.params(steer=steer, max_tokens=TOKENS, decision_id="a"))
    empty.step()
    before = load(empty, new)
    control(empty, "release", before.revision)
    empty.add("second", PROMPT, empty.params(steer=steer, max_tokens=TOKENS, decision_id="b"))
    last = empty.drain()
    assert list(last["first"].outputs[0].token_ids) == wanted
    assert empty.closing("a").revision == before.revision
    assert empty.closing("b").revision == empty.plan.revision
    assert list(last["second"].outputs[0].token_ids) == alone()
    assert wanted != alone() and wanted[: said.index(trigger)] == said[: said.index(trigger)]
    assert before.revision not in empty.core.pilothouse_control("told", [])["requests"]


def test_the_prefix_cache_never_mixes_two_contents_of_one_name(empty: Engine) -> None:
    full = 2 * BLOCK
    load(empty, loaded(w=at_mlp("w", 5)))
    first = ask(empty, W)
    untouched = ask(empty, V)
    load(empty, loaded(w=at_mlp("w", 6)))
    second = ask(empty, W)
    assert second[2] == 0 and np.abs(second[0] - first[0]).max() > 0.05
    again = ask(empty, V)
    assert again[2] == full and np.abs(again[0] - untouched[0]).max() < 1e-5
    load(empty, loaded(w=at_mlp("w", 5)))
    back = ask(empty, W)
    assert back[2] == full and np.abs(back[0] - first[0]).max() < 1e-5
    empty.reset_cache()
    load(empty, loaded(w=at_mlp("w", 6)))
    assert np.abs(ask(empty, W)[0] - second[0]).max() < 1e-5


def test_a_revision_nobody_can_seal_under_any_more_is_refused(empty: Engine) -> None:
    old = load(empty, loaded(w=at_mlp("w", 5)))
    new, empty.plan = empty.plan, old
    try:
        ask(empty)
        control(empty, "release", old.revision)
        empty.run([PROMPT], empty.params(decision_id="late"))
    finally:
        empty.plan = new
    assert empty.closing("late").error == "seal"
    ask(empty, W)


def test_what_is_unloaded_cannot_be_asked_for(empty: Engine) -> None:
    load(empty, loaded(w=at_mlp("w", 5)))
    ask(empty, W)
    load(empty, loaded())
    empty.run([PROMPT], empty.params(steer=[W], decision_id="gone"))
    assert empty.closing("gone").error == "seal"
    ask(empty, V)


def test_a_program_of_two_revisions_lies_in_one_slot(empty: Engine) -> None:
    load(empty, loaded())
    empty.add("first", PROMPT, empty.params(steer=[V], max_tokens=TOKENS, decision_id="a"))
    empty.step()
    load(empty, loaded(w=at_mlp("w", 5)))
    empty.add("second", PROMPT, empty.params(steer=[V], max_tokens=TOKENS, decision_id="b"))
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, empty.scheduler._steering.programs_active)

    empty.drain(look)
    assert most == 1
