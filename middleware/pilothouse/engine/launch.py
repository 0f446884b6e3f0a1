"""From parsed arguments of `vllm serve` to a guarded start."""

from __future__ import annotations

import os
from argparse import Namespace

from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.unsupported_flags import refuse_settings
from pilothouse.engine.vllm.check import check
from pilothouse.engine.vllm.compiled_code import keep_compiled_code
from pilothouse.errors import ConfigError, UnsupportedError
from pilothouse.signed_request import SEAL_KEY_VARIABLE, new_signing_key

WORKER = "pilothouse.engine.worker.worker.GuardedWorker"
SCHEDULER = "pilothouse.engine.scheduler.scheduler.GuardedScheduler"
GATE = "pilothouse.server.middleware.GuardMiddleware"
ENDPOINT_PLUGIN = "pilothouse"
GUARDED_VARIABLE = "PILOTHOUSE_GUARDED"
CONFIG_VARIABLE = "PILOTHOUSE_CONFIG"


def guarded_args(args: Namespace, plan: Plan) -> Namespace:
    """Set worker, scheduler, plan and gate on vLLM's arguments. Changes and returns `args`.

    The gate is added last: vLLM wraps in the order of the list, so that it stays outermost.

    Raises:
        UnsupportedError: another vLLM than was tested; a setting that cannot be guarded.
        ConfigError: `--additional-config` uses our key.
    """
    check("api")
    refuse_settings(args)
    settle_speculation(args)
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


def settle_speculation(args: Namespace) -> None:
    """Have vLLM schedule step by step where it speculates. Changes `args`.

    Ahead of time only the device knows how many drafts were accepted, and so which positions a
    step feeds; steering by position is worked out on the host.

    Raises:
        UnsupportedError: scheduling ahead was asked for.
    """
    if not any(getattr(args, name, None) for name in ("speculative_config", "spec_method")):
        return
    if getattr(args, "async_scheduling", None):
        raise UnsupportedError(
            "--async-scheduling is refused together with speculative decoding: the positions of a "
            "step are not known on the host. Remove one of the two"
        )
    args.async_scheduling = False


def guard_environment() -> None:
    """Draw this start's seal key and mark the environment of its processes.

    Settings that vLLM and torch read as they are imported get their values here too.
    """
    keep_compiled_code()
    os.environ[SEAL_KEY_VARIABLE] = new_signing_key()
    os.environ[GUARDED_VARIABLE] = "1"
