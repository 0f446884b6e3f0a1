"""vLLM's endpoint plugin: takes the inventory, adds our routes, readies the gate."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from argparse import Namespace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import State
from vllm.entrypoints.serve.utils.fingerprint import get_system_fingerprint
from vllm.tool_parsers import ToolParserManager

from pilothouse.engine.launch import CONFIG_VARIABLE, GUARDED_VARIABLE
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.vllm.output_processor import follow, install, subscribe, watch_programs
from pilothouse.engine.vllm.rpc import client_index
from pilothouse.errors import ConfigError
from pilothouse.limits import EngineSize
from pilothouse.policy.ending_rules import Surroundings
from pilothouse.policy.endpoint_names import CHECK_PATHS
from pilothouse.policy.matching import refuse_scored_answers
from pilothouse.server.admission import Admission, label_names
from pilothouse.server.api import make_router
from pilothouse.server.auth import Authenticator, api_keys, listening_of, operators
from pilothouse.server.endpoints.registry import ENDPOINTS
from pilothouse.server.open_doors import takes_pictures
from pilothouse.server.peer import check_forwarding_is_off
from pilothouse.server.reload.plan_snapshot import PlanSnapshot, PlanSnapshots, PlanWatcher
from pilothouse.server.reload.reload import Reloader
from pilothouse.server.response.decisions import DecisionStore, FinalDecision
from pilothouse.server.routes import RouteTable, inventory, refuse_unknown
from pilothouse.server.start_report import log_start
from pilothouse.server.state import STATE_NAME, ServerState
from pilothouse.signed_request import signing_key
from pilothouse.telemetry.logs import escape_server_lines, log_with_vllm
from pilothouse.telemetry.metrics import LabelSources, Metrics

logger = logging.getLogger(__name__)

CHECKS_OFF = "checks are switched off (gate.checks)"
NO_CHECKS = "the model has no chat template, in which a text could be scored"


class EndpointPlugin:
    """What the entry point `vllm.endpoint_plugins` names; vLLM makes one per API process."""

    name = "pilothouse"
    required_tasks: tuple[str, ...] | None = None

    def __init__(self) -> None:
        self._app: FastAPI | None = None

    def attach_router(self, app: FastAPI) -> None:
        """Add our routes; nothing at all on a server that `pilothouse serve` did not start."""
        if os.environ.get(GUARDED_VARIABLE) == "1":
            self._app = app
            app.include_router(make_router())

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Ready the gate. Until this has run it answers 503 to everything.

        The inventory is taken here and not in `attach_router`: routes are still added after that.

        Raises:
            ConfigError: as `make_gate_state`, or uvicorn would rewrite the peer; it stops the
                start.
        """
        if self._app is not None:
            log_with_vllm()
            escape_server_lines()
            check_forwarding_is_off()
            made = make_gate_state(engine_client, args, self._app)
            follow(made.plan_watcher.follow)
            await made.plan_watcher.start()
            if args.api_server_count in (None, 1):
                asyncio.get_running_loop().add_signal_handler(
                    signal.SIGHUP, made.reloader.reload_soon
                )
            setattr(state, STATE_NAME, made)
            if client_index(engine_client) == 0:  # told once, not by each API process
                keyed = made.plan_snapshots.newest.authenticator.keyed
                told = operators(made.plan.body.auth, listening_of(args), keyed=keyed)
                log_start(made.plan, made.routes, made.surroundings, told)


def make_gate_state(engine_client: Any, args: Namespace, app: FastAPI) -> ServerState:
    """Everything the gate needs, from the plan that rides in vLLM's own configuration.

    Raises:
        ConfigError: a route nobody knows under `refuse_start`, a name used twice, bad networks.
    """
    plan = Plan.from_additional_config(engine_client.vllm_config.additional_config)
    served = tuple(args.served_model_name or [args.model])
    adapters = adapter_names(args)
    keys, listening = api_keys(args), listening_of(args)
    vllm_config = engine_client.vllm_config
    fingerprint = get_system_fingerprint(vllm_config)
    model = vllm_config.model_config
    size = EngineSize(
        model.max_model_len, vllm_config.scheduler_config.max_num_seqs, model.is_multimodal_model
    )

    def plan_snapshot(plan: Plan) -> PlanSnapshot:
        refuse_shadowed_profiles(plan, served, adapters)
        authenticator = Authenticator(
            plan.body.auth, keys, demo=plan.body.demo, listening=listening
        )
        return PlanSnapshot(
            plan, authenticator, Admission(plan, served, signing_key(), fingerprint, size)
        )

    plan_snapshots = PlanSnapshots(plan_snapshot(plan))
    can_score = renders_chats(engine_client, args)
    if not can_score:
        refuse_scored_answers(
            plan.policies, "the model has no chat template: give one with --chat-template"
        )
    closed = unserved(vllm_config.model_config)
    if not plan.body.gate.checks:
        closed |= dict.fromkeys(CHECK_PATHS.values(), CHECKS_OFF)
    elif not can_score:
        closed |= dict.fromkeys(CHECK_PATHS.values(), NO_CHECKS)
    table = RouteTable(plan.body.gate.allow, closed)
    routes = inventory(app.routes, table)
    if plan.body.gate.unknown_routes == "refuse_start":
        refuse_unknown(routes)
    metrics = Metrics(_label_sources(plan, (*served, *adapters)))
    metrics.loaded(plan.revision)
    decision_store = DecisionStore()
    plan_watcher = PlanWatcher(engine_client, plan_snapshots, plan_snapshot, metrics)
    install()
    subscribe(metrics.record)
    subscribe(decision_store.receive)
    watch_programs(metrics.programs)
    return ServerState(
        plan_snapshots=plan_snapshots,
        served_names=served,
        table=table,
        plan_watcher=plan_watcher,
        reloader=Reloader(plan_watcher, _file_of_the_start()),
        decision_store=decision_store,
        settler=FinalDecision(plan.rulebook, metrics.decisions),
        metrics=metrics,
        engine_client=engine_client,
        pins_tools=pins_tools(args),
        has_priorities=vllm_config.scheduler_config.policy == "priority",
        surroundings=Surroundings(
            served_names=served,
            adapters=adapters,
            has_keys=bool(keys),
            renders_chats=can_score,
            takes_pictures=takes_pictures(engine_client.vllm_config.model_config),
        ),
        routes=routes,
    )


def unserved(model_config: Any) -> dict[str, str]:
    """Return the paths of endpoints that cannot be governed for this model, with the reasons."""
    reasons = {each.path: each.unserved(model_config) for each in ENDPOINTS.values()}
    return {path: reason for path, reason in reasons.items() if reason is not None}


def renders_chats(engine_client: Any, args: Namespace) -> bool:
    """Whether there is a chat template, of the server's own or of the tokenizer's."""
    if getattr(args, "chat_template", None):
        return True
    try:
        tokenizer = engine_client.get_tokenizer()
    except Exception:  # vLLM started with --skip-tokenizer-init has none, and says so in many ways
        return False
    return getattr(tokenizer, "chat_template", True) is not None


def pins_tools(args: Namespace) -> bool:
    """Whether vLLM makes a grammar of every request's tools: by its flag, or for its parser."""
    if getattr(args, "tool_strict_level", "auto") != "auto":
        return True
    name = getattr(args, "tool_call_parser", None)
    if not name:
        return False
    parser = ToolParserManager.get_tool_parser(name)
    return bool(getattr(parser, "default_tool_strict_level", None))


def adapter_names(args: Namespace) -> tuple[str, ...]:
    """The names of the LoRA adapters that the server was started with."""
    return tuple(each.name for each in getattr(args, "lora_modules", None) or ())


def refuse_shadowed_profiles(
    plan: Plan, served_names: tuple[str, ...], adapters: tuple[str, ...]
) -> None:
    """A profile and a served or adapter's name must not be the same string.

    Raises:
        ConfigError: they are.
    """
    for names, what, flag in (
        (served_names, "a served model name", "--served-model-name"),
        (adapters, "a LoRA adapter's name", "--lora-modules"),
    ):
        both = sorted(set(plan.body.profiles) & set(names))
        if both:
            raise ConfigError(
                f"profiles: {', '.join(both)} is {what} too: rename the profile, or change {flag}"
            )


def _file_of_the_start() -> Path | None:
    named = os.environ.get(CONFIG_VARIABLE)
    return Path(named) if named else None


def _label_sources(plan: Plan, served: tuple[str, ...]) -> LabelSources:
    return LabelSources(
        model_names=label_names(plan, served),
        rules=plan.rulebook.rules,
        signals=plan.signals,
        probes=plan.body.probes,
        vectors=(*plan.body.vectors, *plan.body.saes),
        tenants=[name for policy in plan.policies for name in policy.spec.match.tenants],
    )
