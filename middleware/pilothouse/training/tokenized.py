"""A fit's texts as the model's tokens, before an engine starts: what cannot be read ends here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pilothouse.errors import ConfigError, argument
from pilothouse.training.pair import Asked, Pair
from pilothouse.training.scored_text import ScoredText

if TYPE_CHECKING:
    from pilothouse.engine.vllm.prompts import PromptRenderer
    from pilothouse.training.fit_options import Files, FitOptions

SHOWN_PROBLEMS = 20
CHANGE = f"change the conversation, or say {argument('chat_template_kwargs')}"
Ids = tuple[int, ...]
T = TypeVar("T")
S = TypeVar("S")


class Texts(NamedTuple):
    """Every text of a fit, in the order of its file. `notes` are what its operator should know."""

    contexts: tuple[Ids, ...]
    positives: tuple[ScoredText, ...]
    negatives: tuple[ScoredText, ...]
    neutral: tuple[ScoredText, ...]
    questions: tuple[Ids, ...]
    notes: tuple[str, ...]

    @property
    def longest(self) -> int:
        """How many tokens the longest one has."""
        lines = (*self.positives, *self.negatives, *self.neutral)
        return max(*(len(each.ids) for each in lines), *map(len, self.questions), 0)


def read_texts(options: FitOptions, files: Files, model: str) -> Texts:
    """Return the texts of a fit's files as a model's tokens, by its tokenizer and chat template.

    Raises:
        ConfigError: a line for each text that the model cannot take, with its file and number.
    """
    from pilothouse.engine.vllm.prompts import PromptRenderer  # vLLM takes seconds to import

    renderer = PromptRenderer(model, options.settings, options.chat_template_kwargs)
    contexts = _each(options.pairs, "pair", files.pairs, lambda pair: context_of(renderer, pair))

    asked = tuple(zip(contexts, files.pairs, strict=True))

    def side(name: str) -> tuple[ScoredText, ...]:
        def make(each: tuple[Ids, Pair]) -> ScoredText:
            return line_of(renderer, each[0], getattr(each[1], name))

        return _each(options.pairs, "pair", asked, make, name)

    positives, negatives = side("positive"), side("negative")
    neutral: tuple[ScoredText, ...] = ()
    if options.neutral is not None:
        neutral = _each(
            options.neutral, "text", files.texts, lambda text: line_of(renderer, (), text)
        )
    questions: tuple[Ids, ...] = ()
    if options.facts is not None:
        questions = _each(
            options.facts, "question", files.questions, lambda each: context_of(renderer, each)
        )
    return Texts(
        contexts, positives, negatives, neutral, questions, _notes(renderer, options, files)
    )


def context_of(renderer: PromptRenderer, asked: Asked) -> Ids:
    """Return the token ids of what is continued; empty where nothing is.

    Raises:
        ConfigError: a conversation that the chat template refuses, or no template.
    """
    if asked.prompt is not None:
        return tuple(renderer.tokenizer.encode(asked.prompt))
    if asked.messages is None:
        return ()
    try:
        return renderer.chat([each.model_dump() for each in asked.messages])
    except ConfigError as error:
        raise ConfigError(f"messages: {error.marked}; {CHANGE}") from error


def line_of(renderer: PromptRenderer, context: Ids, text: str) -> ScoredText:
    """Return a continuation of a context, or a whole text, whose first token is given.

    Raises:
        ConfigError: nothing to score in it, or too long for the model.
    """
    more = renderer.tokenizer.encode(text, add_special_tokens=not context)
    line = ScoredText((*context, *more), len(context) or 1)
    if len(line.ids) <= line.start:
        why = (
            "want at least 1 to score"
            if context
            else (
                "want at least 2, since the first of a whole text is given and not scored: put "
                "what comes before it into `prompt`"
            )
        )
        raise ConfigError(f"text {text!r:.60}: got {len(more)} tokens, {why}")
    if len(line.ids) >= renderer.max_tokens:
        raise ConfigError(
            f"text {text!r:.60}: got {len(line.ids)} tokens with its prompt, want fewer than "
            f"{renderer.max_tokens}: shorten it, or raise {argument('engine.max_model_len')}"
        )
    return line


def _each(
    path: Path, kind: str, given: Sequence[S], make: Callable[[S], T], field: str = ""
) -> tuple[T, ...]:
    """Return what `make` makes of each; all problems at once, numbered as in the file."""
    found: list[T] = []
    problems = []
    for number, each in enumerate(given, 1):
        try:
            found.append(make(each))
        except ConfigError as error:
            where = f"{kind} {number}: {field + ': ' if field else ''}"
            problems.append(f"{path}: {where}{error.marked}")
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        tail = [f"{path}: and {more} more"] if more > 0 else []
        raise ConfigError("\n".join([*problems[:SHOWN_PROBLEMS], *tail]))
    return tuple(found)


def _notes(renderer: PromptRenderer, options: FitOptions, files: Files) -> tuple[str, ...]:
    """Note prompts that begin with what the tokenizer puts in front anyway, by file."""
    given: tuple[tuple[Path | None, str, Sequence[str]], ...] = (
        (options.pairs, "pair", [_opening(each) for each in files.pairs]),
        (options.neutral, "text", files.texts),
        (options.facts, "question", [_opening(each) for each in files.questions]),
    )
    notes = []
    for path, kind, texts in given:
        doubled = [n for n, text in enumerate(texts, 1) if renderer.begins_twice(text)]
        if doubled:
            more = f" and {len(doubled) - 1} more" if len(doubled) > 1 else ""
            notes.append(
                f"{path}: {kind} {doubled[0]}{more}: begins with {renderer.tokenizer.bos_token!r}, "
                "which the tokenizer puts in front anyway: the model reads it twice, here as over "
                "/v1/completions; take it out, or write `messages`"
            )
    return tuple(notes)


def _opening(asked: Asked) -> str:
    """Return what a tokenizer is given first; a conversation's template sees to itself."""
    if asked.messages is not None:
        return ""
    return asked.prompt or str(getattr(asked, "positive", ""))
