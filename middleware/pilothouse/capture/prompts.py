"""Prompts of a capture in the forms vLLM knows, told apart."""

from __future__ import annotations

from typing import Any

from pilothouse.errors import ConfigError

WANT = (
    "want a text, a list of token ids, a list of messages, or a list of prompts that are all of "
    "one of these forms"
)


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
