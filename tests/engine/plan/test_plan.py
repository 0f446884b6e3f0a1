"""Plans: what goes in comes out in every process, and what cannot work is refused with a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pilothouse.artifacts.catalog import Catalog
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.validate import check_read_layers, enforced_read_layers
from pilothouse.errors import ConfigError, EngineError, PolicyError, RequestError
from pilothouse.term import SteerTerm
from tests.support.engines.catalogs import policy, probe, readout, vector
from tests.support.engines.harness import make_plan, random_rows

ROWS = random_rows(1, 3)
BLOCK = [{"id": "r", "phase": "output", "when": "x >= 0.5", "then": {"action": "block"}}]
PUSH = [
    {
        "id": "r",
        "phase": "output",
        "when": "x >= 0.5",
        "then": {"action": "steer", "vector": "v", "scale": 2.0, "unit": "unit"},
    }
]


def catalog(**more: Any) -> Catalog:
    probes = {
        "p": probe("p", {1: ROWS[0], 3: ROWS[1]}, {"now": readout("output")}),
        "q": probe("q", {1: ROWS[2]}, {"now": readout("output")}),
    }
    return Catalog(vectors={"v": vector("v", (0, 2), norm=3.0)}, probes=probes | more)


def test_a_plan_survives_the_way_to_another_process() -> None:
    plan = make_plan(catalog(), (policy("push", PUSH, {"x": "p/now"}),))
    back = Plan.from_additional_config(plan.to_additional_config())
    assert back.body == plan.body
    assert back.revision == plan.revision
    assert back.tensors.keys() == plan.tensors.keys()
    assert all(np.array_equal(back.tensors[name], plan.tensors[name]) for name in plan.tensors)
    assert back.signals == plan.signals
    assert [rule.when for rule in back.rulebook.rules] == ["x >= 0.5"]
    loaded = back.sources.edits["v"]
    assert np.array_equal(loaded.directions_LD, catalog().vectors["v"].directions_LD)
    assert np.array_equal(loaded.residual_norms_L, catalog().vectors["v"].residual_norms_L)


def test_no_plan_in_the_configuration_is_said() -> None:
    for additional in (None, {}, {"other": 1}):
        with pytest.raises(EngineError, match="pilothouse serve"):
            Plan.from_additional_config(additional)


def test_taps_are_where_something_reads_or_edits_and_nowhere_else() -> None:
    plan = make_plan(catalog())
    assert [tap.layer for tap in plan.body.taps] == [0, 1, 2, 3]
    assert [tap.layer for tap in plan.edit_taps()] == [0, 2]
    assert plan.body.num_columns == 3
    assert make_plan(Catalog()).body.taps == ()
    reserved = make_plan(Catalog(), taps={"resid_post": [2]})
    assert [tap.layer for tap in reserved.edit_taps()] == [2]


def test_every_column_holds_the_row_of_its_probe_at_its_layer() -> None:
    plan = make_plan(catalog())
    found = {}
    for name, facts in plan.body.probes.items():
        for layer, column in zip(facts.layers, facts.columns, strict=True):
            [tap] = [tap for tap in plan.body.taps if tap.layer == layer]
            reads_DE = plan.tensors[f"reads/{layer}/resid_post"]
            found[name, layer] = reads_DE[:, column - tap.read_start]
    assert np.array_equal(found["p", 1], ROWS[0])
    assert np.array_equal(found["p", 3], ROWS[1])
    assert np.array_equal(found["q", 1], ROWS[2])


def test_policy_targets_have_rows_of_their_unit_and_layers() -> None:
    plan = make_plan(catalog(), (policy("push", PUSH, {"x": "p/now"}),))
    [target] = plan.body.policy_targets
    assert (target.term.vector, target.term.unit) == ("v", "unit")
    for layer in (0, 2):
        [row_D] = plan.tensors[f"policy/{layer}/resid_post/additions"]
        assert abs(float(np.linalg.norm(row_D)) - 1.0) < 1e-6


def revision_of(**changes: Any) -> str:
    base: dict[str, Any] = {"catalog": catalog(), "policies": ()}
    base |= changes
    return make_plan(base.pop("catalog"), base.pop("policies"), **base).revision


def test_everything_in_a_plan_changes_its_revision() -> None:
    other_vector = Catalog(
        vectors={"v": vector("v", (0, 2), seed=9, norm=3.0)}, probes=catalog().probes
    )
    revisions = [
        revision_of(),
        revision_of(catalog=other_vector),
        revision_of(policies=(policy("push", PUSH, {"x": "p/now"}),)),
        revision_of(limits={"max_norm_ratio": 5.0}),
        revision_of(taps={"resid_post": [1]}),
        revision_of(catalog=catalog(r=probe("r", {2: ROWS[0]}, {"now": readout("output")}))),
    ]
    assert len(set(revisions)) == len(revisions)
    assert revision_of() == revision_of()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"d_model": 32}, "width 64"),
        ({"num_layers": 3}, "layers \\[3\\] do not exist"),
        ({"taps": {"resid_post": [4]}}, "taps.resid_post"),
        ({"taps": {"reserve_rows": 2}}, "reserve_rows"),
        ({"limits": {"table_mib": 1, "max_programs": 4096}}, "table_mib"),
    ],
)
def test_what_cannot_work_is_refused_and_says_which(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_plan(catalog(), **changes)


def test_a_policy_that_names_what_is_not_loaded_is_refused() -> None:
    with pytest.raises(PolicyError, match="nowhere"):
        make_plan(catalog(), (policy("bad", BLOCK, {"x": "nowhere/now"}),))


def test_a_policy_whose_steering_overflows_is_refused() -> None:
    push = [PUSH[0] | {"then": {"action": "steer", "vector": "v", "scale": 1e300}}]
    with pytest.raises(ConfigError, match="rule r: at layer 0 the edit reaches"):
        make_plan(catalog(), (policy("push", push, {"x": "p/now"}),))


def profile(scale: float, **term: Any) -> dict[str, Any]:
    return {
        "vectors": {"v": {"path": "v"}},
        "profiles": {"demo:x": {"steer": [{"vector": "v", "scale": scale} | term]}},
    }


def test_a_profile_over_the_norm_limit_is_refused() -> None:
    limits = {"limits": {"max_norm_ratio": 0.5}}
    make_plan(catalog(), **profile(0.5), **limits)
    with pytest.raises(ConfigError, match="max_norm_ratio"):
        make_plan(catalog(), **profile(1.5), **limits)


def test_steering_below_an_enforced_read_is_refused_and_above_it_is_not() -> None:
    plan = make_plan(catalog(), (policy("guard", BLOCK, {"x": "q/now"}),))
    enforced = enforced_read_layers(plan.rulebook, {"guard"})
    assert dict(enforced) == {"q": "guard"}

    def check(*layers: int) -> None:
        term = SteerTerm(vector="v", scale=1.0, layers=layers or None)
        check_read_layers([term], plan, enforced, origin="request")

    check(2)
    for layers in ((0,), ()):
        with pytest.raises(RequestError, match="below resid_post of layer 1"):
            check(*layers)
    with pytest.raises((ConfigError, RequestError), match=r"profiles\.demo:x"):
        make_plan(catalog(), (policy("guard", BLOCK, {"x": "q/now"}),), **profile(0.1, layers=[0]))


def test_shadow_policies_do_not_restrict_steering() -> None:
    plan = make_plan(catalog(), (policy("watch", BLOCK, {"x": "q/now"}, mode="shadow"),))
    assert dict(enforced_read_layers(plan.rulebook, {"watch"})) == {}


def test_a_policy_restricts_the_steering_of_profiles_that_it_holds_for_alone() -> None:
    guard = policy("guard", BLOCK, {"x": "q/now"}, match={"profiles": ["demo:guarded"]})
    plan = make_plan(catalog(), (guard,), **profile(0.1, layers=[0]))
    assert dict(enforced_read_layers(plan.rulebook, set())) == {}
    everyone = policy("guard", BLOCK, {"x": "q/now"}, match={"profiles": ["demo:*"]})
    with pytest.raises(ConfigError, match=r"profiles\.demo:x.*enforced policy 'guard'"):
        make_plan(catalog(), (everyone,), **profile(0.1, layers=[0]))
