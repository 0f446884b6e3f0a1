"""Host work per step is measured on the real schedulers, with the work that the job names."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmodel import Shape, ensure_model
from host_step import JOBS, Rig, breakdown, measure_rounds, open_rigs
from pilothouse.engine.launch import guard_environment
from scenario import HOST_STEP

SHAPE = Shape(
    hidden_size=64, intermediate_size=64, vocab_size=64, head_dim=32, max_position_embeddings=2048
)
REQUESTS = 3
PARTS = ("scheduler_us", "worker_us", "messages_us")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    guard_environment()
    return ensure_model(tmp_path_factory.mktemp("host"), SHAPE)


@pytest.mark.engine
def test_the_case_measures_all_parts_of_every_round(model: Path) -> None:
    [job] = [each for each in JOBS if each.name == HOST_STEP.job]
    rounds = measure_rounds(job, model, SHAPE, REQUESTS, steps=3, rounds=2)["rounds"]
    assert len(rounds) == 2
    for each in rounds:
        assert each["worker_us"] > 0 and each["messages_us"] > 0
        assert each["total_us"] == pytest.approx(sum(each[part] for part in PARTS), abs=0.2)


@pytest.mark.engine
def test_requests_are_scored_and_steered_while_they_are_measured(model: Path) -> None:
    [job] = [each for each in JOBS if each.name == HOST_STEP.job]
    _, plain, ours, _ = open_rigs(job, model, SHAPE, REQUESTS)
    assert isinstance(plain, Rig) and plain.plan is None
    assert ours.emissions is not None and len(ours.emissions.request_ids) == REQUESTS
    assert len(ours.first_plan.steering) == REQUESTS
    request_states = ours.scheduler._request_states.values()
    assert {len(each.programs) for each in request_states} == {1}
    assert all(each.held is not None and each.rules is not None for each in request_states)
    watches = ours.scheduler._policy_engine.table
    rows = [each.rules.row for each in request_states]
    assert (watches.scored_C[rows] > watches.prompt_C[rows]).all()


@pytest.mark.engine
def test_the_breakdown_times_parts_that_the_scheduler_runs(model: Path) -> None:
    [job] = [each for each in JOBS if each.name == HOST_STEP.job]
    _, _, ours, _ = open_rigs(job, model, SHAPE, REQUESTS)
    spent = breakdown(ours, steps=3)
    assert {"ScoreTable.fold", "OutputFilter.apply", "PolicyEngine.cleared"} <= spent.keys()
