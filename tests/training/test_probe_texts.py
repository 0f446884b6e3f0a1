"""Labelled texts as tokens: which of them are the text's own, with and without a template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import pytest

from pilothouse.errors import ConfigError
from pilothouse.training.pair import Message
from pilothouse.training.probe_data import LabelledText
from pilothouse.training.probe_texts import TextRenderer

if TYPE_CHECKING:
    from pilothouse.engine.vllm.prompts import PromptRenderer


class Words:
    """A tokenizer whose ids are those of words, in the order in which it met them."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        words = [*(["<s>"] if add_special_tokens else []), *text.split()]
        return [self._known.setdefault(word, len(self._known)) for word in words]

    def words(self, ids: Sequence[int]) -> list[str]:
        back = {number: word for word, number in self._known.items()}
        return [back[each] for each in ids]


class WordRenderer:
    """Renders as `PromptRenderer` does, over words."""

    max_tokens = 64

    def __init__(self, *, has_template: bool = True) -> None:
        self.tokenizer, self._has_template = Words(), has_template

    def chat(self, messages: Sequence[Mapping[str, object]]) -> tuple[int, ...]:
        if not self._has_template:
            raise ConfigError("the model has no chat template: give `prompt` texts")
        if [each["role"] for each in messages] == ["tool"]:
            raise ConfigError("the model's chat template refuses it: no user")
        said = " ".join(f"[{each['role']} {each['content']} ]" for each in messages)
        return tuple(self.tokenizer.encode(f"{said} [assistant"))


def render(row: LabelledText, *, has_template: bool = True) -> tuple[list[str], list[str]]:
    """All words of a row's tokens, and those that are the text's own."""
    inside = WordRenderer(has_template=has_template)
    prompt = TextRenderer(cast("PromptRenderer", inside)).prompt(row)
    words = inside.tokenizer.words(prompt.ids)
    return words, words[prompt.start : prompt.stop]


def row(*turns: tuple[str, str], answer: str | None = None) -> LabelledText:
    made = tuple(Message(role=role, content=content) for role, content in turns)  # type: ignore[arg-type]
    return LabelledText(made, answer, True, "g", "s", 1)


def test_a_text_is_a_users_turn_and_the_template_is_not_its_own() -> None:
    words, own = render(row(("user", "amber is a stone")))
    assert words == ["<s>", "[user", "amber", "is", "a", "stone", "]", "[assistant"]
    assert own == ["amber", "is", "a", "stone"]


def test_what_stands_before_the_last_turn_is_not_its_own() -> None:
    _, own = render(row(("system", "Be brief."), ("user", "Why ?")))
    assert own == ["Why", "?"]


def test_an_answer_is_its_own_and_begins_behind_the_prompt() -> None:
    words, own = render(row(("user", "Why ?"), answer="so it is"))
    assert own == ["so", "it", "is"]
    assert words[-4:] == ["[assistant", "so", "it", "is"]


def test_a_model_without_a_template_reads_texts_as_they_stand() -> None:
    words, own = render(row(("user", "it is so")), has_template=False)
    assert (words, own) == (["<s>", "it", "is", "so"], ["it", "is", "so"])
    words, own = render(row(("user", "it is"), answer="so"), has_template=False)
    assert (words, own) == (["<s>", "it", "is", "so"], ["so"])
    with pytest.raises(ConfigError, match="messages: got a conversation, and the model has no"):
        render(row(("system", "a"), ("user", "b")), has_template=False)


def test_what_a_template_refuses_and_what_has_no_tokens_is_named() -> None:
    with pytest.raises(ConfigError, match="messages: the model's chat template refuses it"):
        render(row(("tool", "a")))
    with pytest.raises(ConfigError, match="answer: got '  ', want at least one token"):
        render(row(("user", "a"), answer="  "))
