"""From files to a plan: which taps, which columns, which targets; refuses what cannot work.

Shape suffixes: L layers, D hidden size, E read columns of a tap, P policy targets.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pilothouse.config import PilothouseConfig
from pilothouse.edit.additive import norm_ratio, row_D
from pilothouse.engine.buffers_size import table_bytes
from pilothouse.engine.conflict import enforced_read_layers, refuse_conflicts
from pilothouse.engine.overflow import overflow_problem
from pilothouse.engine.plan import (
    ModelFacts,
    Plan,
    PlanBody,
    PolicyTarget,
    ProbeFacts,
    TapPlan,
    VectorFacts,
    digest_of,
)
from pilothouse.errors import ConfigError, UnsupportedError
from pilothouse.model.catalogue import Catalogue, signals_of
from pilothouse.policy.loader import policy_to_json
from pilothouse.policy.rulebook import Rulebook
from pilothouse.policy.schema import Steer
from pilothouse.sealed import SteerTerm
from pilothouse.types import FloatArray, SignalSpec

if TYPE_CHECKING:
    from pilothouse.model.probe import Probe
    from pilothouse.model.vector import Vector
    from pilothouse.policy.schema import Policy

MIB = 1 << 20


def resolve_plan(
    config: PilothouseConfig,
    catalogue: Catalogue,
    policies: Sequence[Policy],
    model: ModelFacts,
    *,
    demo: bool = False,
) -> Plan:
    """The plan for one model.

    Raises:
        ConfigError: an artefact of another width or with layers the model lacks, tables over
            `limits.table_mib`, a profile over the limits or against an enforced rule.
        PolicyError: a policy that names what is not loaded.
    """
    _refuse_reserved_rows(config)
    _check_fit(config, catalogue, model)
    specs = tuple(spec for probe in catalogue.probes.values() for spec in signals_of(probe))
    _check_policies(policies, specs, catalogue)
    targets = _policy_targets(policies, catalogue)
    taps, columns, reads = _read_taps(config, catalogue)
    tensors: dict[str, FloatArray] = dict(reads)
    tensors |= {f"vector/{name}": each.directions_LD for name, each in catalogue.vectors.items()}
    tensors |= _policy_rows(targets, catalogue, model)
    _check_table_memory(config, taps, len(targets), model)
    policies_json = tuple(policy_to_json(policy) for policy in policies)
    config_digest = digest_of(config.model_dump_json(exclude={"policies"}).encode())[:12]
    body = PlanBody(
        revision="",
        config_digest=config_digest,
        demo=demo,
        model=model,
        taps=taps,
        num_columns=sum(tap.read_stop - tap.read_start for tap in taps),
        probes={name: _probe_facts(each, columns[name]) for name, each in catalogue.probes.items()},
        probe_signals=specs,
        vectors={name: _vector_facts(each) for name, each in catalogue.vectors.items()},
        policy_targets=targets,
        policies=policies_json,
        profiles=config.profiles,
        limits=config.limits,
        auth=config.auth,
        gate=config.gate,
    )
    revision = _revision(body, tensors)
    plan = Plan.build(body.model_copy(update={"revision": revision}), tensors)
    _check_profiles(plan)
    return plan


def _refuse_reserved_rows(config: PilothouseConfig) -> None:
    if config.taps.reserve_rows:
        raise UnsupportedError(
            f"taps.reserve_rows: got {config.taps.reserve_rows}; this version loads probes at "
            "start only, so reserved read rows would stay empty: remove the line"
        )


def _check_fit(config: PilothouseConfig, catalogue: Catalogue, model: ModelFacts) -> None:
    problems = []
    names = {config.model_id or model.model_id, config.model_id or Path(model.model_id).name}
    for kind, loaded in (("vectors", catalogue.vectors), ("probes", catalogue.probes)):
        artefacts: Mapping[str, Vector | Probe] = loaded
        for name, each in artefacts.items():
            if each.model_id not in names:
                problems.append(
                    f"{kind}.{name}: made for {each.model_id}; served is {model.model_id}: load "
                    "one made for this model or, where both are the same weights, say so with "
                    f"`model_id: {each.model_id}` in pilothouse.yaml"
                )
            if each.d_model != model.d_model:
                problems.append(
                    f"{kind}.{name}: made for {each.model_id} of width {each.d_model}; "
                    f"{model.model_id} has width {model.d_model}: load one made for this model"
                )
            outside = [layer for layer in each.layers if layer >= model.num_layers]
            if outside:
                problems.append(
                    f"{kind}.{name}: layers {outside} do not exist; {model.model_id} has "
                    f"{model.num_layers} layers: use 0..{model.num_layers - 1}"
                )
    outside = [layer for layer in config.taps.resid_post if not 0 <= layer < model.num_layers]
    if outside:
        problems.append(
            f"taps.resid_post: layers {outside} do not exist; use 0..{model.num_layers - 1}"
        )
    if problems:
        raise ConfigError("\n".join(problems))


def _check_policies(
    policies: Sequence[Policy], specs: tuple[SignalSpec, ...], catalogue: Catalogue
) -> None:
    """Compile policies as loaded: only these know file and line for their errors."""
    Rulebook(
        policies,
        {spec.key: spec for spec in specs},
        default_readouts={name: each.default_readout for name, each in catalogue.probes.items()},
        vectors={name: each.layers for name, each in catalogue.vectors.items()},
    )


def _policy_targets(policies: Sequence[Policy], catalogue: Catalogue) -> tuple[PolicyTarget, ...]:
    targets: dict[PolicyTarget, None] = {}
    for policy in policies:
        for rule in policy.spec.rules:
            if isinstance(rule.then, Steer):
                layers = rule.then.layers or catalogue.vectors[rule.then.vector].layers
                target = PolicyTarget(
                    vector=rule.then.vector, unit=rule.then.unit, layers=tuple(layers)
                )
                targets[target] = None
                _refuse_overflow(policy.name, rule.id, rule.then, target, catalogue)
    return tuple(targets)


def _refuse_overflow(
    policy: str, rule: str, steer: Steer, target: PolicyTarget, catalogue: Catalogue
) -> None:
    vector = catalogue.vectors[target.vector]
    rows = {layer: row_D(vector, layer, target.unit) for layer in target.layers}
    problem = overflow_problem(steer.scale, rows)
    if problem is not None:
        raise ConfigError(f"policy {policy}, rule {rule}: {problem}")


def _read_taps(
    config: PilothouseConfig, catalogue: Catalogue
) -> tuple[tuple[TapPlan, ...], dict[str, tuple[int, ...]], dict[str, FloatArray]]:
    rows: dict[int, list[tuple[str, FloatArray]]] = defaultdict(list)
    for name, probe in catalogue.probes.items():
        for layer, weights_D in zip(probe.layers, probe.weights_LD, strict=True):
            rows[layer].append((name, weights_D))
    edited = {layer for vector in catalogue.vectors.values() for layer in vector.layers}
    edited |= set(config.taps.resid_post)
    taps: list[TapPlan] = []
    columns: dict[str, tuple[int, ...]] = {name: () for name in catalogue.probes}
    reads: dict[str, FloatArray] = {}
    start = 0
    for layer in sorted(edited | set(rows)):
        stop = start + len(rows[layer])
        taps.append(
            TapPlan(
                layer=layer, site="resid_post", read_start=start, read_stop=stop,
                edits=layer in edited,
            )
        )  # fmt: skip
        for column, (name, _) in enumerate(rows[layer], start):
            columns[name] += (column,)
        if rows[layer]:
            reads[f"reads/{layer}/resid_post"] = np.stack([row for _, row in rows[layer]], axis=1)
        start = stop
    return tuple(taps), columns, reads


def _policy_rows(
    targets: tuple[PolicyTarget, ...], catalogue: Catalogue, model: ModelFacts
) -> dict[str, FloatArray]:
    layers = sorted({layer for target in targets for layer in target.layers})
    rows: dict[str, FloatArray] = {}
    for layer in layers:
        rows_PD = np.zeros((len(targets), model.d_model), np.float32)
        for p, target in enumerate(targets):
            if layer in target.layers:
                rows_PD[p] = row_D(catalogue.vectors[target.vector], layer, target.unit)
        rows[f"policy/{layer}"] = rows_PD
    return rows


def _check_table_memory(
    config: PilothouseConfig, taps: tuple[TapPlan, ...], num_targets: int, model: ModelFacts
) -> None:
    edits = sum(tap.edits for tap in taps)
    needed = table_bytes(
        slots=config.limits.max_programs + 1,
        d_model=model.d_model,
        edit_layers=edits,
        num_targets=num_targets,
    )
    if needed > config.limits.table_mib * MIB:
        raise ConfigError(
            f"limits.table_mib: edit tables at {edits} layers for {config.limits.max_programs} "
            f"programs take {needed / MIB:.0f} MiB, allowed are {config.limits.table_mib} MiB: "
            "raise table_mib, or lower max_programs or the number of layers"
        )


def _probe_facts(probe: Probe, columns: tuple[int, ...]) -> ProbeFacts:
    return ProbeFacts(
        columns=columns,
        bias=probe.bias,
        token_slope=probe.token_slope,
        token_offset=probe.token_offset,
        layers=probe.layers,
        readouts=tuple(probe.readouts),
        default_readout=probe.default_readout,
        digest=probe.digest,
    )


def _vector_facts(vector: Vector) -> VectorFacts:
    return VectorFacts(
        layers=vector.layers,
        norms=tuple(np.linalg.norm(vector.directions_LD.astype(np.float64), axis=1).tolist()),
        residual_norms=tuple(vector.residual_norms_L.astype(np.float64).tolist()),
        digest=vector.digest,
    )


def _revision(body: PlanBody, tensors: Mapping[str, FloatArray]) -> str:
    parts: list[bytes] = [json.dumps(body.model_dump(mode="json"), sort_keys=True).encode()]
    for name in sorted(tensors):
        parts += [name.encode(), np.ascontiguousarray(tensors[name]).tobytes()]
    return digest_of(*parts)[:12]


def _check_profiles(plan: Plan) -> None:
    limit = plan.body.limits.max_norm_ratio
    for name, profile in plan.body.profiles.items():
        terms = tuple(SteerTerm.model_validate(term.model_dump()) for term in profile.steer)
        for layer, ratio in norm_ratio(terms, plan.catalogue).items():
            if ratio > limit:
                raise ConfigError(
                    f"profiles.{name}: at layer {layer} the edit is {ratio:.2f} of the mean "
                    f"residual norm, allowed is limits.max_norm_ratio = {limit}: lower the scale "
                    "or raise the limit"
                )
        refuse_conflicts(
            terms, plan, enforced_read_layers(plan.rulebook), origin=f"profiles.{name}"
        )
