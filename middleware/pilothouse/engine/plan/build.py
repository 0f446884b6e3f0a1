"""From files to a plan: which taps, which columns, which targets; refuses what cannot work.

Shape suffixes: L layers, D hidden size, E read columns of a tap, P policy targets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pilothouse.artifacts.catalog import Catalog, signals_of
from pilothouse.artifacts.transform import Transform
from pilothouse.config import PilothouseConfig
from pilothouse.edits.sources import ReadRow, Sources
from pilothouse.engine.plan.capacity import plan_edits, running_edits
from pilothouse.engine.plan.feature_log import (
    feature_reads,
    logged_reads,
    logged_sae,
    owner_of,
)
from pilothouse.engine.plan.plan import Plan, PlanBody, PolicyTarget, digest_of
from pilothouse.engine.plan.read_rows import lay_out_reads, probe_reads
from pilothouse.engine.plan.spec import ModelFacts, probe_facts, sae_facts, vector_facts
from pilothouse.engine.plan.table_size import memory_problem, table_memory
from pilothouse.engine.plan.tap_plan import EditPlan, TapPlan
from pilothouse.engine.plan.turn_markers import TurnMarkers
from pilothouse.engine.plan.validate import (
    check_head_cost,
    check_model_match,
    check_norm_limit,
    check_read_layers,
    enforced_read_layers,
    tap_widths,
)
from pilothouse.engine.worker.policy_edits import policy_programs, stage_tables
from pilothouse.errors import ConfigError, RequestError, UnsupportedError
from pilothouse.head import LINEAR
from pilothouse.policy.loader import policy_to_json
from pilothouse.policy.matching import holds_for
from pilothouse.policy.rulebook import Rulebook
from pilothouse.types import FloatArray, SignalSpec, Tap

if TYPE_CHECKING:
    from pilothouse.policy.schema import Policy


def resolve_plan(
    config: PilothouseConfig,
    catalog: Catalog,
    policies: Sequence[Policy],
    model: ModelFacts,
    *,
    turns: TurnMarkers | None = None,
    demo: bool = False,
    running: Plan | None = None,
) -> Plan:
    """Return the plan for one model; one that follows a running plan has that one's taps and turns.

    Raises:
        ConfigError: an artefact of another width or with layers the model lacks, tables over
            `limits.table_mib`, a profile over the limits or against an enforced rule.
        PolicyError: a policy that names what is not loaded.
    """
    _refuse_reserved_rows(config)
    check_model_match(config, catalog, model)
    specs = tuple(spec for probe in catalog.probes.values() for spec in signals_of(probe))
    _check_policies(policies, specs, catalog)
    sources = _sources(catalog, model.num_layers)
    chosen = policy_programs(policies, sources)
    programs = [program for _, program in chosen]
    logged = feature_reads(policies, catalog.saes)
    edits = plan_edits(config, sources, demo=demo)
    if running is not None:
        edits = running_edits(edits, config, sources, running)
    policy_taps = {tap for program in programs for tap in program.layers}
    wanted = [*probe_reads(catalog), *logged_reads(logged, catalog.saes)]
    read_taps = {each.tap for each in wanted}
    widths = tap_widths({*edits, *policy_taps, *read_taps}, catalog, model, running)
    saes = {each.digest: each for each in catalog.saes.values()}
    stages = {tap: stage_tables(programs, tap, widths[tap], saes) for tap in sorted(policy_taps)}
    for tap, (_, rows) in stages.items():
        edits[tap] = edits.get(tap, EditPlan()).model_copy(update={"policy_rows": rows})
    taps, columns, reads = lay_out_reads(edits, wanted, widths)
    tensors: dict[str, FloatArray] = dict(reads) | _vector_tensors(catalog)
    for tap, (tables, _) in stages.items():
        head = f"policy/{tap.layer}/{tap.site}"
        tensors |= {f"{head}/{key}": table for key, table in tables.items()}
    _check_table_memory(config, taps, len(programs))
    policies_json = tuple(policy_to_json(policy) for policy in policies)
    config_digest = digest_of(config.model_dump_json(exclude={"policies"}).encode())[:12]
    body = PlanBody(
        revision="",
        config_digest=config_digest,
        demo=demo,
        model=model,
        turns=running.body.turns if running is not None else turns or TurnMarkers(),
        taps=taps,
        num_columns=sum(tap.read_stop - tap.read_start for tap in taps),
        probes={name: probe_facts(each, columns[name]) for name, each in catalog.probes.items()},
        probe_signals=specs,
        vectors={name: vector_facts(each) for name, each in catalog.vectors.items()},
        saes={name: sae_facts(each, config.saes[name]) for name, each in catalog.saes.items()},
        logged=tuple(logged_sae(sae, each, columns[owner_of(sae)]) for sae, each in logged.items()),
        policy_targets=tuple(
            PolicyTarget(term=term, digest=program.digest) for term, program in chosen
        ),
        policies=policies_json,
        profiles=config.profiles,
        operators=config.taps.operators,
        limits=config.limits,
        auth=config.auth,
        gate=config.gate,
    )
    revision = _revision(body, tensors)
    plan = Plan.build(body.model_copy(update={"revision": revision}), tensors, config)
    check_head_cost(plan)
    _check_profiles(plan)
    return plan


def _refuse_reserved_rows(config: PilothouseConfig) -> None:
    if config.taps.reserve_rows:
        raise UnsupportedError(
            f"taps.reserve_rows: got {config.taps.reserve_rows}; this version loads probes at "
            "start only, so reserved read rows would stay empty: remove the line"
        )


def _check_policies(
    policies: Sequence[Policy], specs: tuple[SignalSpec, ...], catalog: Catalog
) -> None:
    """Compile policies as loaded: only these know file and line for their errors."""
    Rulebook(
        policies,
        {spec.key: spec for spec in specs},
        default_readouts={name: each.default_readout for name, each in catalog.probes.items()},
        vectors={name: each.layers for name, each in catalog.vectors.items()},
        saes={name: each.layers for name, each in catalog.saes.items()},
    )


def _sources(catalog: Catalog, num_layers: int) -> Sources:
    """Return what terms can name, before there is a plan."""
    reads = {
        name: {
            Tap(layer, probe.site): ReadRow(row_D, probe.bias)
            for layer, row_D in zip(probe.layers, probe.weights_LD, strict=True)
        }
        for name, probe in catalog.probes.items()
        if probe.head == LINEAR
    }
    return Sources(catalog.vectors, reads, num_layers, catalog.saes)


def _vector_tensors(catalog: Catalog) -> dict[str, FloatArray]:
    tensors: dict[str, FloatArray] = {}
    for name, each in catalog.vectors.items():
        if isinstance(each, Transform):
            tensors |= {f"vector/{name}/{key}": array for key, array in each.arrays.items()}
        else:
            tensors[f"vector/{name}/directions"] = each.directions_LD
    return tensors


def _check_table_memory(
    config: PilothouseConfig, taps: tuple[TapPlan, ...], num_targets: int
) -> None:
    memory = table_memory(taps, config.limits, num_targets=num_targets)
    problem = memory_problem(memory, config.limits)
    if problem is not None:
        raise ConfigError(problem)


def _revision(body: PlanBody, tensors: Mapping[str, FloatArray]) -> str:
    parts: list[bytes] = [json.dumps(body.model_dump(mode="json"), sort_keys=True).encode()]
    for name in sorted(tensors):
        parts += [name.encode(), np.ascontiguousarray(tensors[name]).tobytes()]
    return digest_of(*parts)[:12]


def _check_profiles(plan: Plan) -> None:
    for name, profile in plan.body.profiles.items():
        over = {each.name for each in plan.policies if holds_for(each.spec.match.profiles, name)}
        enforced = enforced_read_layers(plan.rulebook, over)
        try:
            check_norm_limit(profile.steer, plan, origin=f"profiles.{name}")
            check_read_layers(profile.steer, plan, enforced, origin=f"profiles.{name}")
        except RequestError as error:
            raise ConfigError(str(error)) from error
