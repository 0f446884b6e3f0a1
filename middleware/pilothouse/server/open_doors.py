"""The doors that a server leaves open, and what a configuration or a start tells of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pilothouse.config import PilothouseConfig
from pilothouse.policy.ending_rules import Surroundings
from pilothouse.policy.open_doors import grouped, open_doors
from pilothouse.server.routes import CONTROLLING

if TYPE_CHECKING:
    from pilothouse.engine.plan.plan import Plan

MODALITIES = ("image", "video", "audio")


def surroundings_of(config: PilothouseConfig) -> Surroundings:
    """What pilothouse.yaml alone tells."""
    return Surroundings(
        auth=config.auth,
        profiles=frozenset(config.profiles),
        opened=tuple(sorted(CONTROLLING & set(config.gate.allow))),
    )


def doors_of(plan: Plan, start: Surroundings) -> list[dict[str, Any]]:
    """Every door that a server under this plan leaves open.

    Args:
        plan: what is loaded.
        start: what is known of the server itself; grants and profiles are taken from the plan,
            since they change with a reload.
    """
    around = replace(
        start,
        auth=plan.body.auth,
        profiles=frozenset(plan.body.profiles),
        for_this_machine=plan.body.demo,
        opened=tuple(sorted(CONTROLLING & set(plan.body.gate.allow))),
        has_metrics=True,
    )
    specs = {policy.name: plan.rulebook.specs_of(policy.name) for policy in plan.policies}
    return grouped(open_doors(plan.policies, specs, around))


def takes_pictures(model_config: Any) -> bool:
    """Whether a client may send the model anything but text."""
    if not model_config.is_multimodal_model:
        return False
    limits = model_config.get_multimodal_config()
    return any(limits.get_limit_per_prompt(each) > 0 for each in MODALITIES)
