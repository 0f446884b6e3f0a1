"""vLLM 0.33, where it differs from 0.32. It has no CPU build, so that no test has run on it."""

from __future__ import annotations

from typing import Final

from pilothouse.engine.vllm.v0_32 import call_every_engine, load_chat_template, refuse_settings

__all__ = [
    "ADAPTERLESS_TOKENS_TAKE_THE_LAST_SLOT",
    "call_every_engine",
    "cli_env_setup",
    "load_chat_template",
    "no_chat_template",
    "refuse_settings",
]

ADAPTERLESS_TOKENS_TAKE_THE_LAST_SLOT: Final = False
"""Whether the CPU kernels look a token without a LoRA adapter up at index -1; mended upstream."""


def cli_env_setup() -> None:
    """Set what vLLM's own command line sets in the environment before it does anything."""
    from vllm.entrypoints.common.startup import cli_env_setup

    cli_env_setup()


def no_chat_template() -> type[Exception]:
    """Return the error that vLLM raises where a model has no chat template."""
    from vllm.exceptions import ChatTemplateResolutionError

    error: type[Exception] = ChatTemplateResolutionError
    return error
