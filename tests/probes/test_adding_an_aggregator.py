"""docs/contributing/adding-an-aggregator.md: its file, as it stands there, reads a probe."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from pilothouse.aggregate import TRAITS
from pilothouse.artifacts.catalog import Catalog
from pilothouse.artifacts.manifest import ReadoutAggregate
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.scheduler.messages import Emissions
from pilothouse.engine.scheduler.score_table import ScoreTable
from pilothouse.policy.loader import policy_from_json
from pilothouse.probes.aggregators import AGGREGATORS, make_aggregator
from pilothouse.probes.score import sequence_logits
from pilothouse.types import Aggregate
from tests.support.engines.catalogs import probe, readout
from tests.support.engines.harness import make_plan, random_rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "contributing" / "adding-an-aggregator.md"
LONGEST = 60
LOGITS = np.random.default_rng(0).normal(size=40)
DEFINITION = math.log(sum(math.exp(each) for each in LOGITS) / len(LOGITS))


@pytest.fixture
def _smooth_max(tmp_path: Path) -> Iterator[None]:
    """The page's file, imported; everything is as before once the test is done."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) <= LONGEST
    path = tmp_path / "smooth_max.py"
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("smooth_max", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        yield
    finally:
        del sys.modules[spec.name]
        AGGREGATORS.pop("smooth_max", None)
        TRAITS.pop("smooth_max", None)


def test_a_manifest_can_name_it_once_it_is_registered_and_no_other_word() -> None:
    with pytest.raises(ValidationError, match="Input should be 'max', 'mean'"):
        ReadoutAggregate.model_validate({"kind": "smooth_max"})


@pytest.mark.usefixtures("_smooth_max")
def test_a_readout_is_scored_with_it_offline() -> None:
    aggregate = ReadoutAggregate.model_validate({"kind": "smooth_max"})
    starts = np.array([0, len(LOGITS), len(LOGITS)])
    scored_N = sequence_logits(LOGITS, starts, aggregate)
    assert scored_N[0] == pytest.approx(DEFINITION, rel=1e-9)
    assert math.isnan(scored_N[1])
    with pytest.raises(ValidationError, match="with kind 'smooth_max', want nothing"):
        ReadoutAggregate.model_validate({"kind": "smooth_max", "half_life_tokens": 4.0})


@pytest.mark.usefixtures("_smooth_max")
def test_any_cut_gives_the_same_and_a_token_without_a_score_is_never_passed_over() -> None:
    aggregator = make_aggregator(Aggregate("smooth_max"))
    states = aggregator.start(2)
    aggregator.fold(states[0], LOGITS[:7])
    running = aggregator.running(states[0], LOGITS[7:])
    aggregator.step(states, np.array([LOGITS[7], math.inf]))
    aggregator.fold_runs(states, np.append(LOGITS[8:], 1.0), np.array([len(LOGITS) - 8, 1]))
    first, second = aggregator.value(states)
    assert first == pytest.approx(DEFINITION, rel=1e-9) == running[-1]
    assert math.isnan(second)


@pytest.mark.usefixtures("_smooth_max")
def test_the_servers_table_of_scores_folds_it() -> None:
    made = probe(
        "p", {1: random_rows(1, 1)[0]}, {"smooth": readout("answer", "smooth_max")}, bias=-0.5
    )
    plan = Plan.from_wire(make_plan(Catalog(probes={"p": made})).to_wire())
    table = ScoreTable(plan)
    row = table.open(1)
    scores_TE = (LOGITS[:, None] + 0.5).astype(np.float32)
    for start, stop in ((0, 1), (1, 2), (2, 30), (30, len(LOGITS))):
        table.fold(Emissions(("r",), (start,), (stop - start,), scores_TE[start:stop]), {"r": row})
    assert table.values_of(row) == {"p/smooth": pytest.approx(1 / (1 + math.exp(-DEFINITION)))}


@pytest.mark.usefixtures("_smooth_max")
def test_a_policy_can_ask_for_it() -> None:
    policy = policy_from_json(
        {
            "apiVersion": "pilothouse/v1",
            "kind": "Policy",
            "metadata": {
                "name": "doubts",
                "title": "t",
                "category": "hallucination",
                "severity": "low",
                "description": "d",
            },
            "spec": {
                "signals": {
                    "doubt": {
                        "probe": "p",
                        "over": "output",
                        "aggregate": {"kind": "smooth_max"},
                    }
                },
                "rules": [
                    {
                        "id": "note",
                        "phase": "final",
                        "when": "doubt >= 0.5",
                        "then": {"action": "log"},
                    }
                ],
            },
        }
    )
    aggregate = policy.spec.signals["doubt"].aggregate
    assert aggregate is not None
    assert aggregate.kind == "smooth_max"
