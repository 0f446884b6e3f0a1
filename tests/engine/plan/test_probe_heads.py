"""Heads of probes in a plan: columns and tables, the way to other processes, and limits."""

from __future__ import annotations

import numpy as np
import pytest

from pilothouse.artifacts.catalog import Catalog
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.table_size import planned_memory
from pilothouse.engine.plan.validate import check_norm_limit
from pilothouse.errors import ConfigError, RequestError
from pilothouse.head import Head
from pilothouse.term import SteerTerm, TokenGate
from pilothouse.types import Tap
from tests.support.engines.catalogs import headed_probe, probe, readout, vector
from tests.support.engines.harness import make_plan, random_rows

NOW = {"now": readout("output")}
HEADS = {
    "looks": Head(kind="attention", heads=3, normaliser="layer_norm"),
    "deep": Head(kind="mlp", hidden_width=6),
    "far": Head(kind="mahalanobis", rank=2, normaliser="rms"),
}


def catalog(**more: Head) -> Catalog:
    probes = {name: headed_probe(name, (1, 3), head, NOW) for name, head in (HEADS | more).items()}
    linear = {"p": probe("p", {1: random_rows(1, 1)[0]}, NOW)}
    return Catalog(vectors={"v": vector("v", (1,))}, probes=linear | probes)


def test_heads_survive_the_way_to_another_process() -> None:
    plan = make_plan(catalog())
    back = Plan.from_additional_config(plan.to_additional_config())
    assert back.body == plan.body
    assert back.installation == plan.installation
    assert {name: each.head for name, each in back.body.probes.items()} == {
        "p": Head(),
        **HEADS,
    }
    for tap in (Tap(1, "resid_post"), Tap(3, "resid_post")):
        pairs = zip(back.hidden_tensors(tap), plan.hidden_tensors(tap), strict=True)
        for ours, theirs in pairs:
            assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_every_column_is_of_one_probe_and_one_layer() -> None:
    plan = make_plan(catalog())
    columns = [each for facts in plan.body.probes.values() for each in facts.columns]
    assert sorted(columns) == list(range(plan.body.num_columns))
    reads = {name: len(facts.read_columns) for name, facts in plan.body.probes.items()}
    assert reads == {"p": 1, "looks": 6, "deep": 1, "far": 1}
    for facts in plan.body.probes.values():
        for each in facts.read_columns:
            taps = [
                tap.layer
                for column in each
                for tap in plan.body.taps
                if tap.read_start <= column < tap.read_stop
            ]
            assert tuple(taps) == facts.layers


def test_another_number_of_a_head_is_another_installation() -> None:
    plain = make_plan(catalog()).installation
    assert make_plan(catalog(deep=Head(kind="mlp", hidden_width=7))).installation != plain
    assert make_plan(catalog()).installation == plain


def test_hidden_layers_count_as_tables() -> None:
    counted = {each.tap.layer: each.num_bytes for each in planned_memory(make_plan(catalog()))}
    hidden = 4 * (6 * (64 + 1 + 1) + 2 * (64 + 1 + 1))
    assert counted[3] == hidden
    assert counted[1] > hidden
    wide = catalog(deep=Head(kind="mlp", hidden_width=4096))
    with pytest.raises(ConfigError, match="table_mib"):
        make_plan(wide, limits={"table_mib": 1, "max_programs": 1})


def test_a_probe_that_is_more_than_a_row_is_no_gate() -> None:
    steering = {"taps": {"operators": ["add", "gate"]}, "auth": {"client_steering": True}}
    plan = make_plan(catalog(), **steering)
    for name, known in (("p", True), ("looks", False), ("deep", False)):
        term = SteerTerm(vector="v", scale=0.1, gate=TokenGate(probe=name), on="output")
        if known:
            check_norm_limit([term], plan, origin="steer")
            continue
        with pytest.raises(RequestError, match=r"want one of \['p'\], which are the linear ones"):
            check_norm_limit([term], plan, origin="steer")


def test_rows_that_overflow_when_they_are_folded_are_refused_with_the_probes_name() -> None:
    head = Head(kind="efficient_probing", heads=1, values_per_head=2)
    made = headed_probe("huge", (1,), head, NOW, scale=1e30)
    with pytest.raises(ConfigError, match=r"probes.huge: .*no finite numbers.*smaller weights"):
        make_plan(Catalog(probes={"huge": made}))
