"""Any batch: each request gets what it would get alone.

Random programs, strengths, positions, arrivals and aborts, over a KV cache so small that requests
are preempted and with the prefix cache on; one policy starts steering in the middle of answers.

Shape suffixes: T output tokens, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pilothouse.artifacts.catalog import Catalog
from pilothouse.term import SteerTerm
from tests.support.engines.catalogs import policy, probe, readout
from tests.support.engines.harness import (
    Engine,
    all_logprobs,
    engine,
    forced_async,
    make_plan,
    random_rows,
)
from tests.support.parity.operators import CASES, CATALOGUE, MARK, RESERVED, with_saes

TOLERANCE = 1e-4
LONGEST = 60
SHARED = np.random.default_rng(5).integers(3, 249, LONGEST).tolist()
SHARED[9] = SHARED[31] = MARK
POLICIES = ("push", "clean", "shove")
WHEN = {"push": "x >= 0.5", "clean": "x >= 0.5", "shove": "x >= 0.6"}
"""Two steer with one vector: where the stronger fires, the other does too."""
MAX_RANK = 8
ROWS = {"reft": 4, "span": 3, "plane": 2}
TERMS = [term for case in CASES for term in case.terms if term.get("gate") is None]


def plan_with_policies(folder: Path) -> Any:
    """Every operator, and policies that begin to add and to ablate while an answer is made."""
    probes = {
        "p": CATALOGUE.probes["p"],
        "now": probe("now", {0: random_rows(8, 1)[0]}, {"now": readout("output")}),
    }
    rules = {
        "push": {"action": "steer", "vector": "w", "scale": 0.7, "hold_tokens": 3},
        "clean": {"action": "steer", "vector": "v", "op": "ablate", "hold_tokens": 5},
        "shove": {"action": "steer", "vector": "w", "scale": -1.4, "hold_tokens": 2},
    }
    policies = [
        policy(
            name,
            [{"id": "r", "phase": "output", "when": WHEN[name], "then": then}],
            {"x": "now/now"},
        )
        for name, then in rules.items()
    ]
    limits = {
        "max_norm_ratio": 1e6,
        "max_programs": 6,
        "max_wait_ms": 60_000,
        "max_rank": MAX_RANK,
    }
    loaded, saes = with_saes(Catalog(CATALOGUE.vectors, probes), folder)
    return make_plan(loaded, policies, limits=limits, saes=saes, **RESERVED)


@dataclass(frozen=True)
class Asked:
    """A random request: a piece of one long prompt, so that prompts share beginnings."""

    length: int
    terms: tuple[SteerTerm, ...]
    policies: tuple[str, ...]
    max_tokens: int
    arrives: int
    abort_after: int | None


def features_of(term: dict[str, Any]) -> list[int]:
    """The features of a term by number."""
    named = term["feature"]
    return {int: [named], str: [5]}.get(type(named), named)


def apart(terms: list[dict[str, Any]]) -> bool:
    """One map of single dimensions, one edit of a direction or feature, rows as many as fit."""
    vectors = [t for t in terms if "vector" in t]
    maps = sum(t["vector"] in ("act", "neurons") or t.get("op") == "replace" for t in vectors)
    edited = [
        t["vector"]
        for t in vectors
        if ("op" in t and t.get("op") != "replace") or t["vector"] == "span"
    ]
    features = [(t["sae"], f) for t in terms if "sae" in t for f in features_of(t)]
    waits = sum("after" in (t.get("positions") or {}) for t in terms)
    rows = sum(ROWS.get(t["vector"], "op" in t) for t in vectors) + len(features)
    once = maps < 2 and all(len(set(each)) == len(each) for each in (edited, features))
    return once and waits < 3 and rows <= MAX_RANK


drawn_terms = (
    st.lists(st.sampled_from(TERMS), max_size=3)
    .filter(apart)
    .map(lambda terms: tuple(SteerTerm.model_validate(each) for each in terms))
)


def has_a_direction_left(asked: Asked) -> bool:
    """False where a stream that was replaced by `v` then has `v` ablated.

    What is left of that is rounding, whose direction an SAE that normalises would read.
    """
    ops = {term.op for term in asked.terms if term.vector == "v"}
    return not ("replace" in ops and ("clean" in asked.policies or "ablate" in ops))


requests = st.builds(
    Asked,
    length=st.sampled_from([5, 20, 33, 48, LONGEST]),
    terms=drawn_terms,
    policies=st.sets(st.sampled_from(POLICIES)).map(tuple),
    max_tokens=st.integers(1, 40),
    arrives=st.integers(0, 6),
    abort_after=st.none() | st.integers(2, 7),
).filter(has_a_direction_left)


MET: Counter[str] = Counter()


@pytest.fixture(scope="module", params=["sync", "async"])
def served(
    request: pytest.FixtureRequest, qwen3: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """An engine whose cache holds two of the longest requests.

    At the end it is checked that the batches met what they are meant to meet.
    """
    MET.clear()
    scheduling = forced_async() if request.param == "async" else nullcontext()
    with (
        scheduling,
        engine(
            qwen3,
            plan_with_policies(tmp_path_factory.mktemp("saes")),
            enable_prefix_caching=True,
            num_gpu_blocks_override=5,
            max_num_batched_tokens=40,
            max_num_seqs=5,
            max_model_len=128,
        ) as started,
    ):
        yield started
    for what in ("preempted", "cached", "compared", "steered by a policy", "aborted"):
        assert MET[what] >= 3, f"the batches hardly met this: {what}, {dict(MET)}"


_numbers = iter(range(1 << 30))


def answers(started: Engine, batch: list[Asked]) -> dict[int, Any]:
    """Run a batch by its timetable; outputs of those that were not aborted."""
    tag, step, names = f"b{next(_numbers)}", 0, {}
    waiting = dict(enumerate(batch))
    found: dict[int, Any] = {}
    while waiting or started.llm.llm_engine.has_unfinished_requests():
        for index in [i for i, each in waiting.items() if each.arrives <= step]:
            each = waiting.pop(index)
            names[f"{tag}-{index}"] = index
            params = started.params(
                steer=each.terms,
                policies=each.policies,
                probes=["now"],
                decision_id=f"{tag}-{index}",
                max_tokens=each.max_tokens,
                logprobs=-1,
            )
            started.add(f"{tag}-{index}", SHARED[: each.length], params)
        for name, index in names.items():
            if batch[index].abort_after is not None and batch[index].abort_after == step:
                started.abort(name)
        for output in started.step():
            found[names[output.request_id]] = output
        step += 1
    _note(started, names, found, batch)
    return {index: output for index, output in found.items() if output.finished}


def _note(
    started: Engine, names: dict[str, int], found: dict[int, Any], batch: list[Asked]
) -> None:
    """Count what a batch of several met."""
    if len(batch) < 2:
        return
    MET["cached"] += sum(bool(output.num_cached_tokens) for output in found.values())
    MET["aborted"] += sum(not output.finished for output in found.values())
    for name, index in names.items():
        fed = [
            start
            for step in started.emissions
            for request_id, start in zip(step.request_ids, step.starts, strict=True)
            if request_id.startswith(name)
        ]
        MET["preempted"] += any(later <= earlier for earlier, later in pairwise(fed))
        asked = {term.vector for term in batch[index].terms}
        closing = [each for each in started.records.get(name, []) if each.closing]
        MET["steered by a policy"] += any(set(each.steered_tokens) - asked for each in closing)


def differs_by(one: Any, other: Any) -> float:
    """The largest difference in log-probabilities up to the first token chosen otherwise."""
    mine, theirs = (list(each.outputs[0].token_ids) for each in (one, other))
    same = next(
        (i for i, pair in enumerate(zip(mine, theirs, strict=False)) if len(set(pair)) > 1),
        min(len(mine), len(theirs)) - 1,
    )
    return float(np.abs(all_logprobs(one)[: same + 1] - all_logprobs(other)[: same + 1]).max())


@pytest.mark.engine
@pytest.mark.timeout(600)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(batch=st.lists(requests, min_size=2, max_size=6))
def test_a_request_in_any_batch_gets_what_it_gets_alone(served: Engine, batch: list[Asked]) -> None:
    together = answers(served, batch)
    for index, output in together.items():
        served.reset_cache()
        alone = Asked(
            batch[index].length,
            batch[index].terms,
            batch[index].policies,
            batch[index].max_tokens,
            arrives=0,
            abort_after=None,
        )
        MET["compared"] += 1
        [by_itself] = answers(served, [alone]).values()
        assert differs_by(output, by_itself) <= TOLERANCE, (index, batch[index])
