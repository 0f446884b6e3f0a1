"""Reserve: tables exist for what profiles name and clients may ask, and for nothing else."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest

from pilothouse.artifacts.catalog import SERVED_SITES, Catalog
from pilothouse.artifacts.saes.cache import open_sae
from pilothouse.config import SaeRef, Taps
from pilothouse.edits.program import compile_program
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.table_size import table_bytes
from pilothouse.engine.plan.tap_plan import EditPlan, PolicyRow
from pilothouse.engine.plan.validate import capacity_problem, check_norm_limit, refuse_unreserved
from pilothouse.errors import ConfigError, EngineError, RequestError
from pilothouse.term import SteerTerm
from pilothouse.types import PROJECTION_SITES, Reserved, Tap
from tests.support.engines.catalogs import policy
from tests.support.engines.harness import make_plan
from tests.support.parity.operators import CATALOGUE
from tests.support.parity.sae_cases import write_saes

GRANT = {"auth": {"client_steering": True}}
AT = Tap(1, "resid_post")


def edits(plan: Plan, tap: Tap = AT) -> EditPlan:
    found = plan.taps()[tap].edits
    assert found is not None
    return found


def reserving(*operators: str, grant: bool = True, **more: Any) -> Plan:
    return make_plan(CATALOGUE, taps={"operators": operators}, **(GRANT if grant else {}), **more)


def profile(*terms: dict[str, Any]) -> dict[str, Any]:
    return {
        "vectors": {name: {"path": name} for name in CATALOGUE.vectors},
        "profiles": {"demo:x": {"steer": list(terms)}},
        "limits": {"max_norm_ratio": 1e6},
    }


def test_addition_alone_reserves_nothing_else() -> None:
    assert edits(make_plan(CATALOGUE, **GRANT)) == EditPlan()
    assert edits(make_plan(CATALOGUE)) == EditPlan()


@pytest.mark.parametrize(
    ("operators", "wanted"),
    [
        (("ablate",), EditPlan(rank=8)),
        (("gate", "add"), EditPlan(rank=8)),
        (("rotate",), EditPlan(rank=8, planes=True)),
        (("apply",), EditPlan(rank=8, diagonal=True)),
        (("replace",), EditPlan(diagonal=True)),
        (("add_below",), EditPlan(rank=8)),
        (("rotate_adaptive",), EditPlan(rank=8, planes=True)),
        (("slerp",), EditPlan(slerp=True)),
        (("add", "token_unit"), EditPlan(relative=True)),
        (("add", "restore_norm"), EditPlan(restores_norm=True)),
    ],
)
def test_an_operator_reserves_what_it_needs(operators: tuple[str, ...], wanted: EditPlan) -> None:
    assert edits(reserving(*operators)) == wanted


def test_clients_who_may_not_steer_reserve_nothing() -> None:
    assert edits(reserving("ablate", "apply", grant=False)) == EditPlan()


def test_a_profile_reserves_what_it_names_where_it_edits() -> None:
    plan = make_plan(
        CATALOGUE,
        **profile(
            {"vector": "span"},
            {"vector": "v", "op": "cap", "value": 1.0, "layers": [1], "restore_norm": True},
        ),
    )
    assert edits(plan) == EditPlan(rank=4, restores_norm=True)
    assert edits(plan, Tap(2, "resid_post")) == EditPlan(rank=3)


def test_a_profile_beyond_the_rank_stops_the_start() -> None:
    with pytest.raises(ConfigError, match=r"profiles\.demo:x: at layer 1 it has 4 gated rows"):
        make_plan(CATALOGUE, **(profile({"vector": "reft"}) | {"limits": {"max_rank": 3}}))


def test_a_profile_that_cannot_be_compiled_stops_the_start() -> None:
    both = profile({"vector": "act"}, {"vector": "neurons"})
    with pytest.raises(ConfigError, match=r"profiles\.demo:x: .*second map"):
        make_plan(CATALOGUE, **both)


@pytest.mark.parametrize(
    ("steer", "does"),
    [
        ({"vector": "plane", "value": 10.0}, "turns a plane"),
        ({"vector": "plane", "op": "rotate_adaptive", "value": 10.0}, "turns a plane"),
        ({"vector": "act"}, "maps single dimensions"),
        ({"vector": "v", "op": "slerp", "scale": 0.5}, "goes a share of a way"),
        ({"vector": "v", "scale": 0.5, "unit": "token"}, "counts in token units"),
    ],
)
def test_a_policy_cannot_steer_with_a_plane_or_a_map(steer: dict[str, Any], does: str) -> None:
    then = {"action": "steer", **steer}
    rule = {"id": "r", "phase": "output", "when": "x >= 0.5", "then": then}
    told = (
        f"policy push, rule r: at layer 1 it {does}; policies steer with vectors, subspaces, low-"
    )
    with pytest.raises(ConfigError, match=told):
        make_plan(CATALOGUE, (policy("push", [rule], {"x": "p/all"}),))


def test_a_policy_brings_its_rows() -> None:
    then = {"action": "steer", "vector": "span"}
    rule = {"id": "r", "phase": "output", "when": "x >= 0.5", "then": then}
    plan = make_plan(CATALOGUE, (policy("clean", [rule], {"x": "p/all"}),))
    assert edits(plan).policy_rows == (PolicyRow(target=0),) * 3


def test_what_is_not_reserved_is_refused_with_what_is() -> None:
    plan = reserving("add", "ablate")
    refuse_unreserved(SteerTerm(vector="v", op="ablate"), plan, "steer.0")
    for term, place in (
        (SteerTerm(vector="v", op="reflect"), r"steer\.0\.op: got 'reflect'"),
        (SteerTerm(vector="v", scale=1.0, restore_norm=True), r"steer\.0\.restore_norm"),
        (SteerTerm(vector="v", scale=1.0, unit="token"), r"steer\.0\.unit: got 'token_unit'"),
    ):
        with pytest.raises(RequestError, match=rf"{place}.*available are \['add', 'ablate'\]"):
            refuse_unreserved(term, plan, "steer.0")


def test_more_rows_than_reserved_are_refused() -> None:
    plan = reserving("add", "ablate", limits={"max_rank": 2, "max_norm_ratio": 1e6})
    terms = [SteerTerm(vector="span"), SteerTerm(vector="v", op="ablate")]
    program = compile_program(terms, plan.sources)
    assert program is not None
    assert "4 rows, 3 reserved" in str(capacity_problem(program, plan.taps()))
    with pytest.raises(RequestError, match=r"steer: at layer 1 the edit needs 4 rows"):
        check_norm_limit(terms, plan, origin="steer")


def test_an_edit_beyond_the_norm_limit_is_refused_by_its_bound() -> None:
    plan = reserving("add", "set", limits={"max_norm_ratio": 0.5})
    check_norm_limit(
        [SteerTerm(vector="v", op="set", value=0.4, unit="residual")], plan, origin="s"
    )
    with pytest.raises(RequestError, match=r"on output tokens at layer 1 got an edit of 0\.6"):
        check_norm_limit(
            [SteerTerm(vector="v", op="set", value=0.6, unit="residual")], plan, origin="s"
        )


def test_memory_grows_with_what_is_reserved() -> None:
    sizes = [
        table_bytes(each, slots=65, width=4096, num_targets=0)
        for each in (
            EditPlan(),
            EditPlan(rank=1),
            EditPlan(rank=8),
            EditPlan(rank=8, diagonal=True),
        )
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] == 65 * 4096 * 4


EVERY = tuple(name for kind in get_args(Reserved) for name in get_args(kind))


@pytest.mark.parametrize("operators", [*((each,) for each in EVERY), ("add", "gate"), EVERY])
def test_a_reserved_tap_has_tables_for_whatever_may_be_loaded_there(
    operators: tuple[str, ...],
) -> None:
    layers = sorted({layer for each in CATALOGUE.vectors.values() for layer in each.layers})
    ahead = make_plan(Catalog(), taps={"operators": operators, "resid_post": layers}, **GRANT)
    for tap, plan in make_plan(CATALOGUE, taps={"operators": operators}, **GRANT).taps().items():
        if plan.edits is not None:
            assert edits(ahead, tap).lacks(plan.edits) is None


def test_every_served_site_can_be_reserved() -> None:
    assert set(SERVED_SITES) == set(Taps.model_fields) - {"operators", "reserve_rows"}
    wide = set(SERVED_SITES) - PROJECTION_SITES
    plan = make_plan(Catalog(), taps={site: [0] for site in wide})
    assert {tap.site for tap in plan.edit_taps()} == wide


def test_a_reserved_layer_must_exist() -> None:
    with pytest.raises(ConfigError, match=r"taps\.mlp_out: layers \[4\] do not exist; use 0\.\.3"):
        make_plan(Catalog(), taps={"mlp_out": [1, 4]})
    with pytest.raises(ConfigError, match=r"taps\.embed: layers \[1\] do not exist; use 0\.\.0"):
        make_plan(Catalog(), taps={"embed": [0, 1]})


SAE_TAP = Tap(1, "resid_post")


def with_jump(folder: Path, *, norm: bool = True, **config: Any) -> Plan:
    """A plan with one thresholded SAE and no vector."""
    ref = write_saes(folder)["jump"] | ({} if norm else {"average_norm": None})
    opened = open_sae("jump", SaeRef.model_validate(ref))
    return make_plan(Catalog(saes={"jump": opened}), saes={"jump": ref}, **config)


def test_a_loaded_sae_makes_its_tap_and_no_rows(tmp_path: Path) -> None:
    assert edits(with_jump(tmp_path, **GRANT), SAE_TAP) == EditPlan()


def test_clients_get_rows_for_features_where_they_may(tmp_path: Path) -> None:
    operators = {"taps": {"operators": ["feature", "restore_norm"]}}
    plan = with_jump(tmp_path, **GRANT, **operators)
    assert edits(plan, SAE_TAP) == EditPlan(rank=8, restores_norm=True)
    assert edits(with_jump(tmp_path / "other", **operators), SAE_TAP) == EditPlan()


def test_a_profile_reserves_a_row_for_each_feature(tmp_path: Path) -> None:
    steer = [
        {"sae": "jump", "feature": [1, 2, 3], "value": 0.5},
        {"sae": "jump", "feature": 4, "op": "ablate"},
    ]
    limits = {"limits": {"max_norm_ratio": 1e6}}
    plan = with_jump(tmp_path, profiles={"demo:x": {"steer": steer}}, **limits)
    assert edits(plan, SAE_TAP) == EditPlan(rank=4)
    with pytest.raises(ConfigError, match=r"profiles.demo:x: at layer 1 it has 4 gated rows"):
        with_jump(tmp_path / "b", profiles={"demo:x": {"steer": steer}}, limits={"max_rank": 3})
    twice = [*steer, {"sae": "jump", "feature": "a label", "value": 1.0}, steer[1] | {"feature": 5}]
    with pytest.raises(ConfigError, match=r"profiles.demo:x: .*feature 5 is edited 2 times"):
        with_jump(tmp_path / "c", profiles={"demo:x": {"steer": twice}}, **limits)


def test_a_policy_brings_rows_for_its_features_and_needs_no_norm(tmp_path: Path) -> None:
    then = {"action": "steer", "sae": "jump", "feature": ["a"], "value": 1.0}
    rule = {"id": "r", "phase": "output", "when": "x >= 0.5", "then": then}
    with pytest.raises(ConfigError, match="feature"):
        policy("push", [rule], {"x": "p/all"})
    rule["then"] = then | {"feature": [5, 6]}
    ref = write_saes(tmp_path)["jump"] | {"average_norm": None}
    loaded = Catalog(
        probes=CATALOGUE.probes, saes={"jump": open_sae("jump", SaeRef.model_validate(ref))}
    )
    plan = make_plan(loaded, (policy("push", [rule], {"x": "p/all"}),), saes={"jump": ref})
    assert edits(plan, SAE_TAP).policy_rows == (PolicyRow(target=0),) * 2


def test_edits_that_nobody_can_bound_stop_the_start(tmp_path: Path) -> None:
    said = (
        r"saes.jump.average_norm: got nothing, want the mean length of what resid_post of layer 1"
    )
    with pytest.raises(ConfigError, match=said):
        with_jump(tmp_path, norm=False, **GRANT, taps={"operators": ["feature"]})
    steer = [{"sae": "jump", "feature": 4, "value": 1.0}]
    with pytest.raises(ConfigError, match=said):
        with_jump(tmp_path / "b", norm=False, profiles={"demo:x": {"steer": steer}})
    assert edits(with_jump(tmp_path / "c", norm=False, **GRANT), SAE_TAP) == EditPlan()


def test_a_plan_carries_no_weights_and_finds_them_again_by_their_digest(tmp_path: Path) -> None:
    plan = with_jump(tmp_path)
    assert not plan.tensors
    again = Plan.from_wire(plan.to_wire())
    assert again.sources.saes["jump"].digest == plan.body.saes["jump"].digest


def test_a_process_that_finds_another_sae_in_its_place_does_not_start(tmp_path: Path) -> None:
    wire = with_jump(tmp_path).to_wire()
    gc.collect()
    shutil.rmtree(tmp_path / "jump")
    write_saes(tmp_path / "new")
    shutil.copytree(tmp_path / "new" / "gated", tmp_path / "jump")
    with pytest.raises(EngineError, match=r"saes.jump: .* was changed since it was read"):
        _ = Plan.from_wire(wire).sources
