"""Each case loads what it says, and its counters can tell work from no work."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from pathlib import Path

import pytest

from bench import BY_DEFAULT, EVERY, _arguments, _flags
from host_step import JOBS
from pilothouse.artifacts.catalog import load_catalog
from pilothouse.config import load_config
from pilothouse.edits.program import compile_program
from pilothouse.engine.plan.build import resolve_plan
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.spec import ModelFacts
from pilothouse.policy.loader import load_policies
from scenario import (
    ALL,
    CASES,
    HOST_STEP,
    NARROW,
    ON_SMOL,
    PROFILES,
    RANK,
    RANK_LAYERS,
    SERVED_NAME,
    SMOL_BY_DEFAULT,
    WIDE,
    Case,
    Load,
    Size,
)

SIZE = Size("random", 64, 8)
LOAD = Load(requests=256, prompt_tokens=2560, output_tokens=2560)
WANTED = (
    "installed",
    "idle",
    "probes8",
    "layer1",
    "layers_all",
    "programs32",
    "norm",
    "sae_feature",
    "programs64",
    "programs256",
    "rank8x4",
)
GOALS = {
    "installed": 1.00,
    "idle": 0.995,
    "probes8": 0.99,
    "layer1": 0.99,
    "layers_all": 0.98,
    "norm": 0.99,
    "sae_feature": 0.98,
    "programs64": 0.98,
    "programs256": 0.97,
    "rank8x4": 0.97,
}


def plan_of(case: Case, folder: Path, size: Size = SIZE) -> Plan:
    path = case.config(folder, size)
    assert path is not None
    config = load_config(path)
    facts = ModelFacts(model_id=size.model_id, num_layers=size.num_layers, d_model=size.d_model)
    return resolve_plan(config, load_catalog(config), load_policies(config.policies), facts)


def test_every_case_of_the_goal_table_is_run_by_default() -> None:
    assert tuple(each.name for each in CASES) == WANTED
    assert [*WANTED, "host_step"] == BY_DEFAULT
    assert {name: EVERY[name].goal for name in GOALS} == GOALS
    assert all(each.goal is not None for each in CASES)


def test_every_request_of_a_burst_has_a_seat() -> None:
    args = Namespace(dtype="float32", vllm_flag=["--enforce-eager"])
    for burst, seats in ((NARROW, "64"), (WIDE, "256")):
        flags = _flags(args, burst)
        assert flags[flags.index("--max-num-seqs") + 1] == seats
        assert int(seats) >= burst.requests
        assert flags[-1] == "--enforce-eager"
    assert {each.name for each in ALL.values() if each.burst == WIDE} == {
        "programs64",
        "programs256",
        "rank8x4",
        "control256",
    }


def test_host_work_is_measured_with_all_that_a_request_can_ask_for() -> None:
    [job] = [each for each in JOBS if each.name == HOST_STEP.job]
    assert (job.probes, job.action, job.steered, job.scores) == (8, "block", True, "summary")
    assert HOST_STEP.goal_us == 1000.0
    assert EVERY["host_step"] is HOST_STEP


def test_installed_needs_no_configuration(tmp_path: Path) -> None:
    assert ALL["installed"].config(tmp_path, SIZE) is None
    assert ALL["installed"].models() == (SERVED_NAME,)


def test_idle_loads_three_probes_a_vector_and_an_sae_that_nothing_uses(tmp_path: Path) -> None:
    plan = plan_of(ALL["idle"], tmp_path)
    assert len(plan.body.probes) == 3
    assert len(plan.body.vectors) == len(plan.body.saes) == 1
    assert not plan.rulebook.rules
    assert not plan.body.profiles


@pytest.mark.parametrize(("name", "ends"), [("probes8", False), ("probes8_block", True)])
def test_the_policy_reads_all_eight_probes_in_both_phases(
    name: str, ends: bool, tmp_path: Path
) -> None:
    plan = plan_of(ALL[name], tmp_path)
    assert {facts.layers for facts in plan.body.probes.values()} == {(4,)}
    assert [rule.phase for rule in plan.rulebook.rules] == ["prompt", "output"]
    for rule in plan.rulebook.rules:
        assert {key.split("/")[0] for key in rule.signals} == set(plan.body.probes)
        assert rule.mode == "enforce"
        assert rule.ends is ends
    assert len(plan.body.probes) == 8


@pytest.mark.parametrize(
    ("name", "layers", "vectors"),
    [
        ("layer1", 1, 1),
        ("layers_all", SIZE.num_layers, PROFILES),
        ("programs32", 1, PROFILES),
        ("norm", 1, 1),
        ("programs64", 1, 64),
        ("programs256", 1, 256),
        ("rank8x4", len(RANK_LAYERS), 64),
    ],
)
def test_every_request_of_a_steered_case_is_steered_in_its_own_way(
    name: str, layers: int, vectors: int, tmp_path: Path
) -> None:
    case = ALL[name]
    plan = plan_of(case, tmp_path)
    assert set(case.models()) == set(plan.body.profiles)
    assert len(set(case.models())) == case.profiles == max(vectors, PROFILES)
    terms = [plan.body.profiles[model].steer[0] for model in case.models()]
    assert len({each.scale for each in terms}) == case.profiles
    assert len({each.vector for each in terms}) == vectors
    assert all(each.on == "all" for each in terms)
    assert {len(facts.layers) for facts in plan.body.vectors.values()} == {layers}
    assert plan.body.limits.max_programs >= vectors
    assert case.burst.requests % case.profiles == 0


def test_norms_are_restored_in_the_norm_case_alone(tmp_path: Path) -> None:
    for name in ("norm", "layer1"):
        edits = [tap.edits for tap in plan_of(ALL[name], tmp_path / name).body.taps]
        assert ["restores_norm" in each.tables for each in edits if each] == [name == "norm"]


def test_sae_feature_sets_one_feature_of_one_sae_in_another_way_each_time(tmp_path: Path) -> None:
    plan = plan_of(ALL["sae_feature"], tmp_path)
    [edits] = [tap.edits for tap in plan.body.taps if tap.edits is not None]
    assert edits.rank == 1 and not plan.body.vectors
    programs = [
        compile_program(profile.steer, plan.sources) for profile in plan.body.profiles.values()
    ]
    assert len({each.digest for each in programs if each is not None}) == PROFILES
    assert {len(each.layers) for each in programs if each is not None} == {1}


def test_rank8x4_has_eight_gated_rows_at_each_of_four_layers(tmp_path: Path) -> None:
    plan = plan_of(ALL["rank8x4"], tmp_path)
    edits = {tap.layer: tap.edits for tap in plan.body.taps if tap.edits is not None}
    assert {layer: each.rank for layer, each in edits.items()} == dict.fromkeys(RANK_LAYERS, RANK)
    assert len(RANK_LAYERS) == 4 and RANK == 8
    digests = {
        compile_program(profile.steer, plan.sources).digest
        for profile in plan.body.profiles.values()
    }
    assert len(digests) == 64


SMOL_SIZE = Size("SmolLM2-135M-Instruct", 576, 30)


def test_the_real_model_has_the_same_cases_and_the_demos_own() -> None:
    assert set(ON_SMOL) == {*ALL, "demo"}
    for name, case in ALL.items():
        on_smol = ON_SMOL[name]
        assert (on_smol.goal, on_smol.what, on_smol.write) == (case.goal, case.what, case.write)
    assert set(SMOL_BY_DEFAULT) == {each.name for each in CASES if each.burst != WIDE} | {"demo"}


@pytest.mark.parametrize("name", [name for name, each in ON_SMOL.items() if each.profiles])
def test_on_the_real_model_every_request_of_a_burst_still_takes_a_profile_of_its_own(
    name: str,
) -> None:
    case = ON_SMOL[name]
    assert case.burst.requests % case.profiles == 0
    assert case.profiles == case.burst.requests or case.burst == WIDE
    if name in ("layers_all", "programs32"):
        assert case.profiles == PROFILES


def test_the_demos_case_is_what_the_demo_loads(tmp_path: Path) -> None:
    case = ON_SMOL["demo"]
    plan = plan_of(case, tmp_path, SMOL_SIZE)
    steering = {name for name, each in plan.body.profiles.items() if each.steer}
    assert set(case.models()) == steering < set(plan.body.profiles)
    assert plan.body.vectors and plan.body.probes and plan.rulebook.rules
    steered = Counter(cheerful=LOAD.output_tokens)
    counters = {
        "pilothouse_requests_total": Counter(bench=LOAD.requests),
        "pilothouse_probe_tokens_total": Counter(misuse=LOAD.prompt_tokens),
        "pilothouse_decisions_total": Counter({"smol-no-misuse": LOAD.requests}),
        "pilothouse_steered_tokens_total": steered,
    }
    assert case.proof(counters, LOAD) == []
    for metric in counters:
        assert case.proof({**counters, metric: Counter()}, LOAD) != []


def test_cases_are_those_of_the_model_and_few_pairs_are_taken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("VLLM_USE_AOT_COMPILE", "0")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    args = _arguments(["--model", "smol", "--case", "demo", "--pairs", "2"])
    assert [each.name for each in args.case] == ["demo"] and args.pairs == 2
    assert args.hardware.endswith("-smol")
    with pytest.raises(SystemExit):
        _arguments(["--case", "demo"])
    assert "got demo, want one of installed" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        _arguments(["--pairs", "1"])


def full(case: str) -> dict[str, Counter[str]]:
    """Counters after LOAD went through as the case says."""
    counters = {"pilothouse_requests_total": Counter(bench=LOAD.requests)}
    if case == "probes8":
        scored = {f"probe{i}": LOAD.fed_tokens for i in range(8)}
        counters["pilothouse_probe_tokens_total"] = Counter(scored)
        counters["pilothouse_decisions_total"] = Counter(
            {"bench/prompt/allowed": LOAD.requests, "bench/output/allowed": LOAD.requests}
        )
    if case == "sae_feature":
        counters["pilothouse_steered_tokens_total"] = Counter(sae=LOAD.fed_tokens)
    if case in ("layer1", "norm"):
        counters["pilothouse_steered_tokens_total"] = Counter(v00=LOAD.fed_tokens)
    if case in ("layers_all", "programs32", "programs64", "programs256", "rank8x4"):
        count = ALL[case].profiles
        counters["pilothouse_steered_tokens_total"] = Counter(
            {f"v{i:02d}": LOAD.fed_tokens // count for i in range(count)}
        )
    return counters


@pytest.mark.parametrize("name", WANTED)
def test_the_proof_accepts_counters_of_a_full_run(name: str) -> None:
    assert ALL[name].proof(full(name), LOAD) == []


@pytest.mark.parametrize("name", WANTED)
def test_the_proof_refuses_requests_that_went_round_the_gate(name: str) -> None:
    counters = full(name)
    del counters["pilothouse_requests_total"]
    assert ALL[name].proof(counters, LOAD) != []


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("probes8", "pilothouse_probe_tokens_total"),
        ("probes8", "pilothouse_decisions_total"),
        ("layer1", "pilothouse_steered_tokens_total"),
        ("layers_all", "pilothouse_steered_tokens_total"),
        ("programs32", "pilothouse_steered_tokens_total"),
    ],
)
def test_the_proof_refuses_a_run_without_the_work(name: str, metric: str) -> None:
    counters = full(name)
    del counters[metric]
    assert ALL[name].proof(counters, LOAD) != []


def test_the_proof_refuses_one_program_where_thirty_two_were_meant() -> None:
    counters = full("programs32")
    counters["pilothouse_steered_tokens_total"] = Counter(v00=LOAD.fed_tokens)
    assert ALL["programs32"].proof(counters, LOAD) == ["vectors in use: got 1, want 32"]


def test_the_proof_of_idle_refuses_work_that_should_not_be_there() -> None:
    assert ALL["idle"].proof(full("layer1"), LOAD) != []
