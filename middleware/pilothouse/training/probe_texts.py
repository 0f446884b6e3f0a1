"""Labelled texts as the model's tokens, through its own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pilothouse.errors import ConfigError
from pilothouse.training.pair import Message
from pilothouse.training.probe_data import LabelledText

if TYPE_CHECKING:
    from pilothouse.engine.vllm.prompts import PromptRenderer

SENTINELS = ("amber", "7 z?")
"""Two texts that begin and end differently: what stays around both is the template's."""


class Prompt(NamedTuple):
    """Token ids, how many of them are the prompt, and the span [start, stop) that is the text's."""

    ids: tuple[int, ...]
    prompt_tokens: int
    start: int
    stop: int


class TextRenderer:
    """Renders labelled texts; without a chat template they are read as they stand.

    Args:
        renderer: the model's tokenizer and template.

    Raises:
        ConfigError: the template refuses a single turn.
    """

    def __init__(self, renderer: PromptRenderer) -> None:
        self._renderer = renderer
        self.max_tokens = renderer.max_tokens
        self.is_chat = _has_template(renderer)
        self._frame = self._around([]) if self.is_chat else (0, 0)

    def prompt(self, row: LabelledText) -> Prompt:
        """The tokens of a row, as the server would make them.

        Raises:
            ConfigError: a conversation that the template refuses, or that has none to go by.
        """
        if not self.is_chat:
            return self._raw(row)
        turns = [each.model_dump() for each in row.turns]
        try:
            asked = self._renderer.chat(turns)
        except ConfigError as error:
            raise ConfigError(f"messages: {error}") from error
        if row.answer is not None:
            return self._answered(asked, row.answer)
        head, tail = self._frame if len(turns) == 1 else self._around(row.turns[:-1])
        return Prompt(asked, len(asked), min(head, len(asked) - tail), len(asked) - tail)

    def _answered(self, asked: tuple[int, ...], answer: str) -> Prompt:
        more = self._renderer.tokenizer.encode(answer, add_special_tokens=False)
        if not more:
            raise ConfigError(where="answer", got=f"{answer!r:.60}", want="at least one token")
        ids = (*asked, *more)
        return Prompt(ids, len(asked), len(asked), len(ids))

    def _raw(self, row: LabelledText) -> Prompt:
        if len(row.turns) > 1 or row.turns[0].role != "user":
            raise ConfigError(
                where="messages",
                got="a conversation, and the model has no chat template",
                want="`text`",
                fix="write each as one text",
            )
        ids = tuple(self._renderer.tokenizer.encode(row.turns[0].content))
        if not ids:
            raise ConfigError(where="text", got="no tokens", want="at least one")
        if row.answer is not None:
            return self._answered(ids, row.answer)
        return Prompt(ids, len(ids), 1, len(ids))

    def _around(self, before: Sequence[Message]) -> tuple[int, int]:
        """How many tokens stand before and behind a user's last turn.

        A template that refuses the sentinels there leaves nothing to tell, which is no error.
        """
        given = [each.model_dump() for each in before]
        try:
            one, other = (
                self._renderer.chat([*given, {"role": "user", "content": each}])
                for each in SENTINELS
            )
        except ConfigError:
            return 1, 0
        return max(1, _shared(one, other)), _shared(one[::-1], other[::-1])


def _has_template(renderer: PromptRenderer) -> bool:
    try:
        renderer.chat([{"role": "user", "content": SENTINELS[0]}])
    except ConfigError as error:
        if "no chat template" in str(error):
            return False
        raise
    return True


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    same = [a == b for a, b in zip(one, other, strict=False)]
    return same.index(False) if False in same else len(same)
