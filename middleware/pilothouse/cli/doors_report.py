"""Which ways round enforced rules a configuration leaves open, for `doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pilothouse.artifacts.catalog import Catalog
from pilothouse.cli.policy import artefacts_of
from pilothouse.config import PilothouseConfig
from pilothouse.policy.open_doors import grouped, open_doors
from pilothouse.policy.resolve import resolve_policy
from pilothouse.policy.schema import Policy
from pilothouse.server.open_doors import surroundings_of

UNSEEN = "served names, API keys, adapters and what a model takes beside text show at the start"


def doors_report(
    config: PilothouseConfig, catalog: Catalog, policies: Sequence[Policy], model: str | None
) -> list[dict[str, Any]]:
    """Name, severity, rules, reason and remedy of each door; with a model, its template's too."""
    artefacts = artefacts_of(catalog)
    specs = {each.name: resolve_policy(each, artefacts).signals for each in policies}
    renders = None if model is None else has_chat_template(model)
    around = replace(surroundings_of(config), renders_chats=renders, has_metrics=True)
    return grouped(open_doors(policies, specs, around))


def has_chat_template(model: str) -> bool | None:
    """Whether the model's own tokenizer has one; None where it cannot be read."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except Exception:  # whatever a tokenizer of the model's own making raises
        return None
    return getattr(tokenizer, "chat_template", None) is not None


def door_lines(doors: Sequence[dict[str, Any]]) -> list[str]:
    """The same, to be read."""
    told = [
        f"  {each['door']} ({each['severity']}), past {', '.join(each['rules'])}: "
        f"{each['reason']}; {each['remedy']}"
        for each in doors
    ]
    return [f"doors that stay open ({UNSEEN}):", *(told or ["  none"])]
