"""SAEs that choose features by all others: resident where something edits with them, counted, kept.

Shapes: D width, M features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pilothouse.artifacts.catalog import Catalog
from pilothouse.artifacts.saes.cache import open_sae
from pilothouse.config import SaeRef
from pilothouse.edits.program import compile_program
from pilothouse.engine.plan.capacity import running_edits
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.table_size import planned_memory
from pilothouse.engine.plan.validate import check_norm_limit
from pilothouse.engine.worker.buffers import TapBuffers
from pilothouse.engine.worker.tables import named_sae_tensors, named_tensors
from pilothouse.errors import ConfigError, EngineError, RequestError
from pilothouse.term import SteerTerm
from pilothouse.types import Tap
from tests.support.artifacts import sae_files as files
from tests.support.engines.catalogs import policy, probe, readout
from tests.support.engines.harness import make_plan, random_rows
from tests.support.parity.sae_cases import FEATURES, book, write_saes

D_MODEL = 64
GRANT = {"auth": {"client_steering": True}, "taps": {"operators": ["feature"]}}
CHOSEN = {"sae": "chosen", "feature": 3, "value": 2.0}
NORMED = {"sae": "normed", "feature": 3, "value": 2.0}
AT = Tap(1, "resid_post")


@pytest.fixture
def refs(tmp_path: Path) -> dict[str, dict[str, Any]]:
    return write_saes(tmp_path)


def planned(refs: Mapping[str, Any], names: tuple[str, ...], *terms: Any, **more: Any) -> Plan:
    """A plan of some of the SAEs, with the terms as a profile."""
    kept = {name: refs[name] for name in names}
    saes = {name: open_sae(name, SaeRef.model_validate(ref)) for name, ref in kept.items()}
    profiles = {"profiles": {"demo:x": {"steer": list(terms)}}} if terms else {}
    policies = more.pop("policies", ())
    probes = more.pop("probes", {})
    catalog = Catalog({}, probes, saes)
    return make_plan(catalog, policies, saes=kept, **profiles, **more)


def resident(plan: Plan, tap: Tap = AT) -> list[str]:
    """The SAEs that lie at a tap, by name."""
    edits = plan.taps()[tap].edits
    assert edits is not None
    names = {facts.digest: name for name, facts in plan.body.saes.items()}
    return sorted(names[each.sae] for each in edits.latents)


def test_an_sae_is_resident_where_a_profile_or_a_client_may_edit_with_it(refs: Any) -> None:
    loaded = ("chosen", "jump", "normed")
    assert resident(planned(refs, loaded)) == []
    assert resident(planned(refs, loaded, NORMED)) == []
    assert resident(planned(refs, loaded, CHOSEN)) == ["chosen"]
    assert resident(planned(refs, (*loaded, "signed"), **GRANT)) == ["chosen"]
    both = planned(refs, (*loaded, "signed"), CHOSEN, **GRANT)
    assert (resident(both), resident(both, Tap(2, "resid_post"))) == (["chosen"], ["signed"])


@pytest.mark.parametrize(("term", "measures"), [(CHOSEN, False), (NORMED, True)])
def test_tokens_are_measured_only_where_an_edit_needs_it(
    refs: Any, term: dict[str, Any], measures: bool
) -> None:
    loaded = ("chosen", "normed")
    for plan in (planned(refs, loaded, term), planned(refs, (term["sae"],), **GRANT)):
        edits = plan.taps()[AT].edits
        assert edits is not None
        assert ("statistics" in edits.tables) == measures


def buffers(plan: Plan) -> TapBuffers:
    whole = {each.tap: slice(0, each.width) for each in plan.body.taps}
    return TapBuffers.allocate(plan, whole, max_tokens=4, device=torch.device("cpu"))


def test_what_lies_at_a_tap_is_what_the_plan_counts(refs: Any) -> None:
    plan = planned(refs, ("chosen", "signed"), **GRANT)
    made = buffers(Plan.from_wire(plan.to_wire()))
    for memory in planned_memory(plan):
        tensors = named_tensors(made.tables[memory.tap]).values()
        assert sum(each.numel() * each.element_size() for each in tensors) == memory.num_bytes
    assert made.tables[AT].latents[0].facts.num_features == FEATURES


def test_an_sae_counts_against_the_memory_of_the_tables(refs: Any) -> None:
    limits = {"max_programs": 1, "max_norm_ratio": 1e6, "table_mib": 1}
    place, wide = Path(refs["chosen"]["path"]), 8192
    made = book(
        "topk",
        25,
        W_enc=np.ones((D_MODEL, wide)),
        W_dec=np.ones((wide, D_MODEL)),
        b_enc=np.ones(wide),
        threshold=None,
    )
    planned(refs, ("chosen",), CHOSEN, limits=limits)
    files.saelens(
        place,
        made,
        d_in=D_MODEL,
        d_sae=wide,
        metadata={"model_name": "tiny", "hook_name": "blocks.1.hook_resid_post"},
    )
    with pytest.raises(
        ConfigError,
        match=r"limits.table_mib: .* take 2 MiB, of them 2 MiB of 1",
    ):
        planned(refs, ("chosen",), CHOSEN, limits=limits)
    planned(refs, ("chosen",), limits=limits)


def test_files_that_changed_since_the_plan_was_made_are_not_served(
    refs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = planned(refs, ("chosen",), CHOSEN).to_wire()
    monkeypatch.setattr("pilothouse.artifacts.saes.cache._OPEN", {})
    files.write_json(Path(refs["chosen"]["path"]) / "labels.json", {"1": "another"})
    with pytest.raises(EngineError, match=r"saes.chosen: .* was changed since it was read"):
        buffers(Plan.from_wire(wire))


def test_a_request_for_an_sae_that_is_not_resident_is_refused(refs: Any) -> None:
    plan = planned(refs, ("chosen", "jump"), {"sae": "jump", "feature": 3, "value": 2.0})
    with pytest.raises(RequestError, match="the codes of an SAE that is not resident there"):
        check_norm_limit([SteerTerm.model_validate(CHOSEN)], plan, origin="steer")
    with pytest.raises(RequestError, match="an SAE that normalises each token, none reserved"):
        check_norm_limit(
            [SteerTerm.model_validate(NORMED)], both_loaded(refs, plan), origin="steer"
        )


def both_loaded(refs: Any, plan: Plan) -> Plan:
    """The same taps with one SAE more to name."""
    more = open_sae("normed", SaeRef.model_validate(refs["normed"]))
    found = replace(plan)
    found.__dict__["sources"] = replace(plan.sources, saes={**plan.sources.saes, "normed": more})
    return found


def test_an_sae_that_was_not_there_at_start_needs_a_restart(refs: Any) -> None:
    running = planned(refs, ("jump",), **GRANT)
    later = planned(refs, ("jump", "chosen"), **GRANT)
    wanted = {each.tap: each.edits for each in later.body.taps if each.edits is not None}
    with pytest.raises(ConfigError, match=r"not resident there, which is made at start"):
        running_edits(wanted, later.config, later.sources, running)
    assert running_edits(wanted, later.config, later.sources, later)[AT].latents


def with_policy(refs: Any, then: dict[str, Any], *names: str, **more: Any) -> Plan:
    rule = {"id": "r", "phase": "output", "when": "x >= 0.5", "then": then}
    loaded = {"now": probe("now", {0: random_rows(8, 1)[0]}, {"now": readout("output")})}
    policies = [policy("p", [rule], {"x": "now/now"})]
    return planned(refs, names, policies=policies, probes=loaded, **more)


@pytest.mark.parametrize(
    "then",
    [{"action": "steer", **CHOSEN}, {"action": "log", "features": {"sae": "chosen", "of": [3, 1]}}],
    ids=["steer", "log"],
)
def test_an_sae_is_resident_for_what_policies_do_and_requests_cannot_use_it(
    refs: Any, then: dict[str, Any]
) -> None:
    plan = with_policy(refs, then, "chosen", "jump")
    at = plan.taps()[AT]
    assert [each.sae for each in at.resident_saes] == [plan.body.saes["chosen"].digest]
    assert resident(plan) == []
    with pytest.raises(RequestError, match="1 rows, 0 reserved"):
        check_norm_limit([SteerTerm.model_validate(CHOSEN)], plan, origin="steer")
    made = buffers(Plan.from_wire(plan.to_wire()))
    tensors = named_tensors(made.tables[AT]) | named_tensors(made.policies.get(AT))
    tensors |= named_sae_tensors(made.resident_saes[AT].values())
    [memory] = [each for each in planned_memory(plan) if each.tap == AT]
    whole = sum(each.numel() * each.element_size() for each in tensors.values())
    assert memory.num_bytes == whole


def test_an_sae_that_serves_several_purposes_lies_there_once(refs: Any) -> None:
    plan = with_policy(refs, {"action": "steer", **CHOSEN}, "chosen", **GRANT)
    made = buffers(plan)
    [own], [ours] = made.tables[AT].latents, made.policies[AT].latents
    assert own is ours is made.resident_saes[AT][own.facts.sae]


def test_programs_of_two_saes_with_the_same_numbers_differ(tmp_path: Path, refs: Any) -> None:
    plan = planned(refs, ("chosen", "signed"), **GRANT)
    found = [
        compile_program([SteerTerm.model_validate(CHOSEN | {"feature": each})], plan.sources)
        for each in (3, 4)
    ]
    again = planned(write_saes(tmp_path / "again"), ("chosen",), CHOSEN)
    other = compile_program([SteerTerm.model_validate(CHOSEN)], again.sources)
    assert other is not None and found[0] is not None and found[1] is not None
    assert found[0].digest == other.digest != found[1].digest
