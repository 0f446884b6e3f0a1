"""vLLM 0.32, where it differs from others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pilothouse.engine.vllm.config_protocols import VllmConfig

ADAPTERLESS_TOKENS_TAKE_THE_LAST_SLOT: Final = True
"""Whether the CPU kernels look a token without a LoRA adapter up at index -1."""


async def call_every_engine(client: Any, method: str, arguments: Sequence[object]) -> list[object]:
    """Call a utility of every engine core."""
    answers: list[object] = await client.call_utility_all_async(method, *arguments)
    return answers


def cli_env_setup() -> None:
    """Set what vLLM's own command line sets in the environment before it does anything."""
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup

    cli_env_setup()


def load_chat_template(given: str | None) -> str | None:
    """Return the chat template that a file, or a text, of the operator's holds."""
    from vllm.renderers.chat_utils import load_chat_template

    template: str | None = load_chat_template(given)
    return template


def no_chat_template() -> type[Exception]:
    """Return the error that vLLM raises where a model has no chat template."""
    from vllm.renderers.chat_utils import ChatTemplateResolutionError

    error: type[Exception] = ChatTemplateResolutionError
    return error


def refuse_settings(_vllm_config: VllmConfig) -> None:
    """Refuse settings that other versions do not have: there are none."""
