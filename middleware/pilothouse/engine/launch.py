"""From parsed arguments of `vllm serve` to a guarded start."""

from __future__ import annotations

import os
from argparse import Namespace

from pilothouse.engine.compat import check_version
from pilothouse.engine.plan import Plan
from pilothouse.engine.refusals import refuse_settings
from pilothouse.errors import ConfigError
from pilothouse.sealed import SEAL_KEY_VARIABLE, new_seal_key

WORKER = "pilothouse.engine.worker.GuardedWorker"
SCHEDULER = "pilothouse.engine.scheduler.GuardedScheduler"
GATE = "pilothouse.server.gate.Gate"
ENDPOINT_PLUGIN = "pilothouse"
GENERAL_PLUGIN = "pilothouse"
GUARDED_VARIABLE = "PILOTHOUSE_GUARDED"
CONFIG_VARIABLE = "PILOTHOUSE_CONFIG"


def guarded_args(args: Namespace, plan: Plan) -> Namespace:
    """Set worker, scheduler, plan and gate on vLLM's arguments. Changes and returns `args`.

    The gate is added last: vLLM wraps in the order of the list, so that it stays outermost.

    Raises:
        UnsupportedError: a setting that cannot be guarded.
        ConfigError: `--additional-config` uses our key.
    """
    check_version()
    refuse_settings(args)
    additional = dict(args.additional_config or {})
    ours = plan.to_additional_config()
    taken = sorted(set(additional) & set(ours))
    if taken:
        raise ConfigError(f"--additional-config: keys {taken} are Pilothouse's: remove them")
    args.worker_cls = WORKER
    args.scheduler_cls = SCHEDULER
    args.additional_config = additional | ours
    args.middleware = [*(getattr(args, "middleware", None) or []), GATE]
    return args


def guard_environment() -> None:
    """Draw this start's seal key and mark the environment of its processes."""
    os.environ[SEAL_KEY_VARIABLE] = new_seal_key()
    os.environ[GUARDED_VARIABLE] = "1"
