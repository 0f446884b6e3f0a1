"""The policies' programs: resident at every tap they edit, several at once, after the request's.

Each distinct intervention of a rule is a target; how strongly it holds is a coefficient of the
token. Targets are in the order of policies and rules, and a later one's rows see what an earlier
one's write.

Shape suffixes: P policy targets, D width of the tap, K rows of all targets, G numbers of a gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.edits.gate import GATE_WIDTH
from pilothouse.edits.ops.additions import Additions
from pilothouse.edits.ops.rows import GatedRows
from pilothouse.edits.program import Program, compile_program
from pilothouse.edits.sources import Sources
from pilothouse.edits.statistic import Statistic
from pilothouse.engine.plan.tap_plan import PolicyRow
from pilothouse.engine.plan.validate import overflow_problem
from pilothouse.engine.worker.sae_weights import resident_sae
from pilothouse.errors import ConfigError, RequestError
from pilothouse.policy.schema import Steer
from pilothouse.term import SteerTerm
from pilothouse.types import FloatArray, Tap

if TYPE_CHECKING:
    from pilothouse.engine.plan.plan import Plan
    from pilothouse.policy.schema import Policy


def term_of(action: Steer) -> SteerTerm:
    """Return a rule's intervention as a line of steering; where it holds, the verdict says."""
    return SteerTerm(
        vector=action.vector,
        sae=action.sae,
        feature=action.feature,
        op=action.op,
        scale=action.scale,
        value=action.value,
        above=action.above,
        unit=action.unit,
        sites=action.sites,
        layers=action.layers,
        on="all",
    )


def policy_programs(
    policies: Sequence[Policy], sources: Sources
) -> list[tuple[SteerTerm, Program]]:
    """Return the program of each steering rule, in order, duplicates left out.

    Raises:
        ConfigError: an intervention that cannot be carried out; names policy and rule.
    """
    found: dict[str, tuple[SteerTerm, Program]] = {}
    for policy in policies:
        for rule in policy.spec.rules:
            if isinstance(rule.then, Steer):
                term = term_of(rule.then)
                program = _program(term, sources, f"policy {policy.name}, rule {rule.id}")
                found.setdefault(program.digest, (term, program))
    return list(found.values())


class RuleSteering(NamedTuple):
    """What a steering rule does: along which target, how strongly, as whose."""

    target: int
    coefficient: float
    rank: int
    """Its place among the steering rules by policy and id: of equals the first wins."""
    name: str
    """Of its vector or SAE. Rules of one target can have several, for one and the same content."""
    hold_tokens: int


def policy_steering(plan: Plan) -> dict[int, RuleSteering]:
    """Rule index -> what it does, of every steering rule of a plan, in the order of their ranks."""
    target_of = {each.digest: i for i, each in enumerate(plan.body.policy_targets)}
    steering: dict[int, RuleSteering] = {}
    rules = sorted(plan.rulebook.rules, key=lambda rule: (rule.policy, rule.rule))
    for rule in rules:
        if isinstance(rule.action, Steer):
            program = _program(term_of(rule.action), plan.sources, f"policy {rule.policy}")
            steering[rule.index] = RuleSteering(
                target_of[program.digest],
                program.coefficient,
                len(steering),
                rule.action.name,
                rule.action.hold_tokens,
            )
    return steering


def stage_tables(
    programs: Sequence[Program], tap: Tap, width: int, saes: Mapping[str, Sae]
) -> tuple[dict[str, FloatArray], tuple[PolicyRow, ...]]:
    """Return the tables of one tap, and what each of their rows is; empty where none edits.

    Args:
        programs: the programs, in the order of the targets.
        tap: the tap.
        width: elements of a token at the tap.
        saes: those of the programs, by their digests.
    """
    edits = [(p, each.layers[tap]) for p, each in enumerate(programs) if tap in each.layers]
    if not edits:
        return {}, ()
    additions_PD = np.zeros((len(programs), width), np.float32)
    rows: list[tuple[int, GatedRows]] = []
    for p, edit in edits:
        additions, gated = edit.get(Additions), edit.get(GatedRows)
        if additions is not None:
            additions_PD[p] = additions.addition_D
        if gated is not None:
            rows.append((p, gated))
    told = tuple(row for p, each in rows for row in _rows(p, each, saes))
    if not rows:
        return {"additions": additions_PD}, ()
    reads_KD = np.concatenate([each.reads_RD for _, each in rows])
    writes_KD = np.concatenate([each.writes_RD for _, each in rows])
    gates_KG = np.concatenate([each.gates_RG for _, each in rows]).reshape(-1, GATE_WIDTH)
    sees_KK = _sees([each for _, each in rows], told, reads_KD, writes_KD)
    return {
        "additions": additions_PD,
        "reads": reads_KD,
        "writes": writes_KD,
        "gates": gates_KG,
        "sees": sees_KK,
    }, told


def _rows(target: int, rows: GatedRows, saes: Mapping[str, Sae]) -> Iterator[PolicyRow]:
    statistics = rows.statistics_R or (Statistic.NONE,) * rows.rank
    latents = rows.latents_R or (None,) * rows.rank
    for statistic, latent in zip(statistics, latents, strict=True):
        known = None if latent is None else resident_sae(saes[latent.sae])
        feature = 0 if latent is None else latent.feature
        yield PolicyRow(target=target, statistic=int(statistic), latent=known, feature=feature)


def _program(term: SteerTerm, sources: Sources, origin: str) -> Program:
    try:
        program = compile_program((term,), sources)
    except RequestError as error:
        raise ConfigError(f"{origin}: {error}") from error
    if program is None:
        raise ConfigError(f"{origin}: steers at a scale of 0, which does nothing: remove the rule")
    problem = overflow_problem(program)
    if problem is not None:
        raise ConfigError(f"{origin}: {problem}")
    for tap, edit in program.layers.items():
        for each in edit.tables:
            refusal = each.refused_in_policies()
            if refusal is not None:
                raise ConfigError(f"{origin}: at layer {tap.layer} it {refusal}")
    return program


def _sees(
    edits: Sequence[GatedRows],
    rows: Sequence[PolicyRow],
    reads_KD: FloatArray,
    writes_KD: FloatArray,
) -> FloatArray:
    target_K = np.array([each.target for each in rows])
    wide_KK = reads_KD.astype(np.float64) @ writes_KD.astype(np.float64).T
    for k, row in enumerate(rows):
        if row.latent is not None:
            # A code is read once, before the policies; of its own feature it sees every change.
            wide_KK[k] = [(each.latent, each.feature) == (row.latent, row.feature) for each in rows]
    sees_KK = np.where(target_K[:, None] > target_K[None, :], wide_KK, 0.0)
    start = 0
    for edit in edits:
        own = slice(start, start + edit.rank)
        sees_KK[own, own] = edit.sees_RR
        start += edit.rank
    return sees_KK.astype(np.float32)
