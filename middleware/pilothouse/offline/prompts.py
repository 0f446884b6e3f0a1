"""Prompts of `pilothouse.LLM` before vLLM gets them: their forms, and what it would pass over."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pilothouse.engine.vllm.prompts import begins_twice, check_template_kwargs
from pilothouse.errors import ConfigError
from pilothouse.log_text import log_text

WANT = (
    "want a text, a list of token ids, a list of messages, or a list of prompts that are all of "
    "one of these forms"
)
logger = logging.getLogger(__name__)


def prompts_of(given: Any) -> tuple[list[Any], bool]:
    """A list of prompts, and whether they are conversations.

    Raises:
        ConfigError: a form that is not known, or several in one list.
    """
    if _form(given) is not None:
        given = [given]
    if not isinstance(given, list | tuple):
        raise ConfigError(f"prompts: got {type(given).__name__}, {WANT}")
    forms = [_form(each) for each in given]
    if None in forms:
        wrong = forms.index(None)
        raise ConfigError(f"prompts: number {wrong} is {given[wrong]!r:.80}, {WANT}")
    if len({form == "messages" for form in forms}) > 1:
        raise ConfigError(f"prompts: got conversations beside other prompts, {WANT}")
    prompts = [
        {"prompt_token_ids": list(each)} if form == "token ids" else each
        for each, form in zip(given, forms, strict=True)
    ]
    return prompts, "messages" in forms


def _form(prompt: Any) -> str | None:
    if isinstance(prompt, str):
        return "text"
    if isinstance(prompt, dict):
        return None if "role" in prompt else "vLLM's prompt"
    if not isinstance(prompt, list | tuple) or not prompt:
        return None
    if all(isinstance(each, int) and not isinstance(each, bool) for each in prompt):
        return "token ids"
    if all(isinstance(each, dict) and "role" in each for each in prompt):
        return "messages"
    return None


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
