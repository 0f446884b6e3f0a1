"""The engine of a fit: vLLM's flags behind `--`, and what is set where none was given."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NamedTuple

from pilothouse.errors import ConfigError, argument

OWN_SETTINGS = ("model", "worker_cls", "scheduler_cls", "additional_config")
DTYPE_FLAG = "--dtype"
KV_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
MIB, GIB = 1 << 20, 1 << 30
IN_FLIGHT_TOKENS = 16_384
"""So many tokens of texts are with the engine at a time: more would not make two cores faster."""
MOST_KV_BYTES = 4 * GIB
"""What a whole context may take before it is cut down to what the texts need."""
CONTEXT_STEP = 1024
CPU_BLOCK = 32
"""Tokens whose KV is shared or not; the least that vLLM's CPU kernels take. Its own choice is 128,
which is longer than most prompts of pairs, so that nothing of them would be shared."""
STEP_TOKENS = 512
"""The most tokens of one forward pass: the scores of all of them over the vocabulary are held at
once, and more tokens would not make two cores faster."""


class Chosen(NamedTuple):
    """Settings for vLLM's `LLM`, and what an operator should know of those nobody gave.

    The lines of `told` name arguments as errors do: `pilothouse.errors.spelled` spells them.
    """

    settings: dict[str, Any]
    told: tuple[str, ...]


def engine_settings(
    words: Sequence[str], dtype: str | None = None, *, verb: str = "vector fit"
) -> dict[str, Any]:
    """Parse vLLM's engine flags into arguments of `LLM`, those alone that were given.

    Args:
        words: the flags, as they stand behind `--`.
        dtype: the verb's own option, which means the same as the flag.
        verb: whose flags they are.

    Raises:
        ConfigError: a flag that this verb sets itself, or two that do not agree.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(prog=f"pilothouse {verb} ... --"))
    given, usual = vars(parser.parse_args(list(words))), vars(parser.parse_args([]))
    settings = {name: value for name, value in given.items() if value != usual[name]}
    taken = sorted(settings.keys() & set(OWN_SETTINGS))
    if taken:
        raise ConfigError(f"behind --: got {', '.join(taken)}, which {verb} sets itself")
    if any(word == DTYPE_FLAG or word.startswith(f"{DTYPE_FLAG}=") for word in words):
        settings["dtype"] = given["dtype"]  # also where it says what vLLM would do anyway
    if dtype is not None and settings.setdefault("dtype", dtype) != dtype:
        raise ConfigError(f"--dtype: got {dtype} and, behind --, {settings['dtype']}: want it once")
    return settings


def with_dtype(model: str, settings: dict[str, Any]) -> Chosen:
    """Return the settings with a `dtype`, and a line that says which and why where none was given.

    Raises:
        ConfigError: the model's configuration cannot be read.
    """
    if "dtype" in settings:
        return Chosen(settings, ())
    from pilothouse.engine.plan.dtype import usual_dtype

    usual = usual_dtype(Namespace(model=model, **settings))
    told = f"{argument('dtype')} is not given: {usual.name}: {usual.why}"
    return Chosen(settings | {"dtype": usual.name}, (told,))


def with_memory(model: str, settings: dict[str, Any], longest: int) -> Chosen:
    """Return the settings with bounds on memory where none were given, on a CPU alone.

    There vLLM would take 92% of the machine's memory for the KV cache. A context whose KV alone
    would be over `MOST_KV_BYTES` is cut down to what the texts need.

    Args:
        model: the model's folder or name.
        settings: those that were given.
        longest: tokens of the longest text with its answer.

    Raises:
        ConfigError: the model's configuration cannot be read.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return Chosen(settings, ())
    usual = {
        "block_size": CPU_BLOCK,
        "max_num_batched_tokens": max(STEP_TOKENS, settings.get("max_num_seqs") or 0),
    }
    if settings.get("enable_chunked_prefill") is False:
        del usual["max_num_batched_tokens"]
    chosen = usual | settings
    if "kv_cache_memory_bytes" in settings or os.environ.get(KV_VARIABLE):
        return Chosen(chosen, ())
    from pilothouse.engine.vllm.kv_cache import kv_cache_size

    size = kv_cache_size(model, settings)
    context, told = size.max_tokens, []
    needed = max(longest + 1, size.trained_tokens + 1)
    enough = -(-needed // CONTEXT_STEP) * CONTEXT_STEP
    is_large = size.bytes_per_token * context > MOST_KV_BYTES and enough < context
    if is_large and "max_model_len" not in settings:
        chosen["max_model_len"] = context = enough
        told.append(
            f"{argument('engine.max_model_len')} is not given: {context} of the model's "
            f"{size.max_tokens} tokens, which is what the texts need"
        )
    tokens = max(context + CPU_BLOCK, IN_FLIGHT_TOKENS)
    chosen["kv_cache_memory_bytes"] = max(64 * MIB, size.bytes_per_token * tokens)
    return Chosen(chosen, tuple(told))
