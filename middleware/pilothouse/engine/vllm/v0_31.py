"""vLLM 0.31, where it differs from 0.32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pilothouse.errors import UnsupportedError

ADAPTERLESS_TOKENS_TAKE_THE_LAST_SLOT: Final = True
"""Whether the CPU kernels look a token without a LoRA adapter up at index -1."""


async def call_every_engine(client: Any, method: str, arguments: Sequence[object]) -> list[object]:
    """Call a utility of every engine core.

    There is no call for all of them yet; data parallel is refused, so that there is one.
    """
    return [await client.call_utility_async(method, *arguments)]


def cli_env_setup() -> None:
    """Set what vLLM's own command line sets in the environment before it does anything."""
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup

    cli_env_setup()


def load_chat_template(given: str | None) -> str | None:
    """Return the chat template that a file, or a text, of the operator's holds."""
    from vllm.entrypoints.chat_utils import load_chat_template

    template: str | None = load_chat_template(given)
    return template


def no_chat_template() -> type[Exception]:
    """Return the error that vLLM raises where a model has no chat template."""
    from vllm.entrypoints.chat_utils import ChatTemplateResolutionError

    error: type[Exception] = ChatTemplateResolutionError
    return error


def refuse_settings(vllm_config: Any) -> None:
    """Refuse settings that other versions do not have.

    Raises:
        UnsupportedError: sequence parallelism, which splits a step's tokens between ranks.
    """
    splits = vllm_config.compilation_config.pass_config.enable_sp
    if splits and vllm_config.parallel_config.tensor_parallel_size > 1:
        raise UnsupportedError(
            "--compilation-config: vLLM's configuration has pass_config.enable_sp = True, which is "
            "refused with Pilothouse: positions of a step do not lie on one rank in order. Set it "
            "to false"
        )
