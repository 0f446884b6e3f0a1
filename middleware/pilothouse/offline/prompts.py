"""What is looked at in prompts before vLLM gets them: what it would pass over in silence."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pilothouse.engine.vllm.prompts import begins_twice, check_template_kwargs
from pilothouse.log_text import log_text

logger = logging.getLogger(__name__)


def check_chat(renderer: Any, options: Mapping[str, Any]) -> None:
    """Refuse variables that the chat template does not read.

    Args:
        renderer: vLLM's, of the model.
        options: arguments of vLLM's `chat`.

    Raises:
        ConfigError: names them.
    """
    check_template_kwargs(
        renderer, options.get("chat_template_kwargs") or {}, template=options.get("chat_template")
    )


def warn_of_doubled(renderer: Any, prompts: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Log once where texts begin with the token that the tokenizer puts in front anyway.

    The ids stay those that vLLM gives the same text over HTTP.
    """
    tokenizer = renderer.tokenizer
    adds = (options.get("tokenization_kwargs") or {}).get("add_special_tokens", True)
    if tokenizer is None or not adds:
        return
    doubled = [
        number for number, each in enumerate(prompts) if begins_twice(tokenizer, _text(each))
    ]
    if doubled:
        logger.warning(
            "prompts: number %d and %d more begin with %s, which the tokenizer puts in front "
            "anyway: the model reads it twice, here as over /v1/completions; take it out",
            doubled[0],
            len(doubled) - 1,
            log_text(tokenizer.bos_token),
        )


def _text(prompt: Any) -> str:
    text = prompt.get("prompt") if isinstance(prompt, dict) else prompt
    return text if isinstance(text, str) else ""
