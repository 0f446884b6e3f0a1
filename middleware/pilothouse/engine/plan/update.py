"""The plan that follows a running one: what may differ, what differs, and why the rest may not.

Taps, tables, read rows and policies are laid down when the engine starts. Vectors, SAEs, profiles,
some limits and the grants are not: a request's steering is compiled from the plan it was sealed
under.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel

from pilothouse.artifacts.catalog import load_catalog
from pilothouse.config import PilothouseConfig
from pilothouse.engine.plan.build import resolve_plan
from pilothouse.engine.plan.plan import CHANGEABLE_LIMITS, Plan
from pilothouse.errors import ConfigError
from pilothouse.policy.loader import load_policies, policy_to_json
from pilothouse.policy.schema import Log, Steer

if TYPE_CHECKING:
    from pilothouse.policy.schema import Policy

RESTART = "is read at start only: restart, or put it back"
LIMITS_AT_RUN_TIME: frozenset[str] = frozenset(CHANGEABLE_LIMITS)


@dataclass(frozen=True, slots=True)
class Changes:
    """Entries of a configuration by their place in it, such as `vectors.cheerful`."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    def __str__(self) -> str:
        parts = (("added", self.added), ("removed", self.removed), ("changed", self.changed))
        return "; ".join(f"{word} {', '.join(each)}" for word, each in parts if each) or "no entry"


def following_plan(running: Plan, config: PilothouseConfig) -> Plan:
    """Return the plan of a configuration on the taps and tables of a running plan. Reads files.

    Raises:
        ConfigError: a line for each thing that cannot change without a restart, with what to do.
    """
    _refuse(_fixed_sections(running.config, config))
    catalog = load_catalog(config)
    policies = load_policies(config.policies)
    probes = {name: each.digest for name, each in catalog.probes.items()}
    _refuse(_fixed_content(running, probes, policies))
    _refuse(_still_used(running, config))
    digests = {
        name: each.digest
        for loaded in (catalog.vectors, catalog.saes)
        for name, each in loaded.items()
    }
    _refuse(_steered_with(running, digests))
    body = running.body
    plan = resolve_plan(config, catalog, policies, body.model, demo=body.demo, running=running)
    _ = plan.sources  # made here, and not by the first request
    if plan.installation != running.installation:
        raise ConfigError(f"what the engine was started with {RESTART}")
    return plan


def changes(running: Plan, following: Plan) -> Changes:
    """Return what a reload did, entry by entry."""
    before, after = dict(_entries(running)), dict(_entries(following))
    return Changes(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(k for k in before.keys() & after.keys() if before[k] != after[k])),
    )


def _entries(plan: Plan) -> Iterator[tuple[str, object]]:
    body = plan.body
    for name, vector in body.vectors.items():
        yield f"vectors.{name}", vector
    for name, sae in body.saes.items():
        yield f"saes.{name}", sae
    for name, profile in body.profiles.items():
        yield f"profiles.{name}", profile
    for name in sorted(LIMITS_AT_RUN_TIME):
        yield f"limits.{name}", getattr(body.limits, name)
    for name in type(body.auth).model_fields:
        yield f"auth.{name}", getattr(body.auth, name)


def _refuse(problems: Iterator[str]) -> None:
    lines = list(problems)
    if lines:
        raise ConfigError("\n".join(lines))


def _fixed_sections(before: PilothouseConfig, after: PilothouseConfig) -> Iterator[str]:
    pairs: Sequence[tuple[str, object, object]] = [
        ("model_id", before.model_id, after.model_id),
        *_fields("taps", before.taps, after.taps),
        *_fields("limits", before.limits, after.limits),
        *_fields("gate", before.gate, after.gate),
    ]
    for place, had, got in pairs:
        if had != got and place.removeprefix("limits.") not in LIMITS_AT_RUN_TIME:
            yield f"{place}: got {_shown(got)}, running is {_shown(had)}; it {RESTART}"


def _fields(
    section: str, before: BaseModel, after: BaseModel
) -> Iterator[tuple[str, object, object]]:
    for name in type(before).model_fields:
        yield f"{section}.{name}", getattr(before, name), getattr(after, name)


def _shown(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _fixed_content(
    running: Plan, probes: Mapping[str, str], policies: Sequence[Policy]
) -> Iterator[str]:
    """Probes by content and policies by what they say: a file may lie elsewhere."""
    runs = {name: each.digest for name, each in running.body.probes.items()}
    says = {policy.name: policy_to_json(policy) for policy in running.policies}
    wants = {policy.name: policy_to_json(policy) for policy in policies}
    for section, had, got in (("probes", runs, probes), ("policies", says, wants)):
        for name in sorted(had.keys() | got.keys()):
            if name not in had:
                yield f"{section}.{name}: is new; what {section} holds {RESTART}"
            elif name not in got:
                yield f"{section}.{name}: is gone; what {section} holds {RESTART}"
            elif had[name] != got[name]:
                yield f"{section}.{name}: differs from what runs; it {RESTART}"


def _still_used(running: Plan, config: PilothouseConfig) -> Iterator[str]:
    for section in ("vectors", "saes"):
        for name in getattr(running.body, section):
            users = _policies_with(running, name)
            if users and name not in getattr(config, section):
                yield f"{section}.{name}: cannot go, rules of {users} name it: it {RESTART}"


def _steered_with(running: Plan, digests: Mapping[str, str]) -> Iterator[str]:
    for section in ("vectors", "saes"):
        for name, facts in getattr(running.body, section).items():
            users = _policies_with(running, name)
            if users and digests.get(name) != facts.digest:
                yield (
                    f"{section}.{name}: has other content now, and rules of {users} name it; what "
                    f"they name {RESTART}"
                )


def _policies_with(plan: Plan, name: str) -> str:
    """Return the policies whose rules name a vector or SAE, as words."""
    names = {rule.policy for rule in plan.rulebook.rules if name == _named(rule.action)}
    return " and ".join(f"policy {name!r}" for name in sorted(names))


def _named(action: object) -> str | None:
    """Return the one vector or SAE that a rule needs."""
    if isinstance(action, Steer):
        return action.name
    return action.features.sae if isinstance(action, Log) and action.features else None
