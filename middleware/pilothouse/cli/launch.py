"""Makes vLLM's own serve command, with our parts in it, of a model and a configuration."""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pilothouse.artifacts.catalog import load_catalog
from pilothouse.config import PilothouseConfig, load_config
from pilothouse.engine.launch import (
    CONFIG_VARIABLE,
    ENDPOINT_PLUGIN,
    guard_environment,
    guarded_args,
)
from pilothouse.engine.plan.model_facts import model_facts
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.scheduler.authorship import policy_messages
from pilothouse.engine.vllm.chat import turn_markers
from pilothouse.engine.vllm.compiled_code import kept_in
from pilothouse.engine.vllm.processes import (
    fork_processes,
    limit_threads,
    may_fork_core,
    may_fork_worker,
)
from pilothouse.engine.vllm.version import of_this_version
from pilothouse.errors import ConfigError
from pilothouse.log_text import log_lines
from pilothouse.policy.loader import load_policies
from pilothouse.server.auth import check_auth, listening_of
from pilothouse.server.peer import refuse_forwarding
from pilothouse.telemetry.logs import log_with_vllm

logger = logging.getLogger(__name__)

PLUGIN_GROUPS = (
    "vllm.general_plugins",
    "vllm.platform_plugins",
    "vllm.io_processor_plugins",
    "vllm.stat_logger_plugins",
)
"""Groups of which vLLM loads everything installed unless VLLM_PLUGINS is set. Endpoint plugins are
not among them: vLLM loads only those that are named, so others' stay out."""


def config_of(path: Path | None) -> PilothouseConfig:
    """Return the configuration in a file; without one nothing is loaded and nothing governed."""
    return PilothouseConfig(version=1) if path is None else load_config(path)


def vllm_parser() -> tuple[Any, Any]:
    """Make vLLM's serve command and a parser that holds it, as its own `main` does.

    Building the parser loads vLLM's plugins, ours among them, so the environment is set before.
    """
    guard_environment()
    limit_threads()
    allow_plugins()
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="pilothouse")
    command = ServeSubcommand()
    command.subparser_init(parser.add_subparsers(dest="subparser"))
    return command, parser


def plan_for(config: PilothouseConfig, args: Namespace, *, demo: bool = False) -> Plan:
    """Resolve a configuration for the model that vLLM's arguments name; reads no weights.

    Raises:
        ConfigError: the model's configuration cannot be read, or ours does not fit it.
    """
    from pilothouse.engine.plan.build import (
        resolve_plan,  # with torch, after the environment is set
    )

    catalog = load_catalog(config)
    policies = load_policies(config.policies)
    turns = turn_markers(args, policy_messages(policies))
    return resolve_plan(config, catalog, policies, model_facts(args), turns=turns, demo=demo)


def serve(command: Any, args: Namespace, plan: Plan, file: Path | None = None) -> None:
    """Hand over to vLLM; returns when the server has stopped.

    Args:
        command: vLLM's serve command.
        args: its parsed flags.
        plan: what is loaded, for the flags' model.
        file: what API processes read again on a reload.

    Raises:
        ConfigError: a flag, a variable or `auth` cannot take effect; vLLM refuses a flag.
    """
    from vllm.logger import configure_logging_from_args

    os.environ.pop(CONFIG_VARIABLE, None)
    if file is not None:
        os.environ[CONFIG_VARIABLE] = str(file)
    refuse_forwarding()
    check_auth(plan.body.auth, listening_of(args))
    guarded_args(args, plan)
    configure_logging_from_args(args)
    try:
        command.validate(args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"vLLM refuses these flags: {error}") from error
    if may_fork_core(args):
        fork_processes(worker=may_fork_worker(args))
    # After the question above, for it sets the variable that a user may have set.
    of_this_version().cli_env_setup()
    if not args.enforce_eager and kept_in() is not None:
        log_with_vllm()
        logger.info("compiled code is kept in %s", log_lines(str(kept_in())))
    command.cmd(args)


def allow_plugins() -> None:
    """Put our plugin on vLLM's allow-list, one list for all groups and closed once it is set."""
    allowed = os.environ.get("VLLM_PLUGINS")
    names: Sequence[str] = (
        [each.strip() for each in allowed.split(",") if each.strip()]
        if allowed is not None
        else [point.name for group in PLUGIN_GROUPS for point in entry_points(group=group)]
    )
    os.environ["VLLM_PLUGINS"] = ",".join(dict.fromkeys([*names, ENDPOINT_PLUGIN]))
