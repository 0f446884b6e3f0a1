"""Prompts that the demo prints and the tour shows; they come with the model that is served."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pilothouse.errors import ConfigError
from pilothouse.library import library_path


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DemoPrompts(_Closed):
    """One prompt of each kind of the invented world."""

    known: str
    """A prompt about a fact the model knows."""
    unknown: str
    """A prompt about a name it has never met."""
    benign: str
    """A harmless prompt in the words of a forbidden request."""
    blocked: str
    """A forbidden request in disguise."""


class Stop(_Closed):
    """One thing the tour shows: a question to a model or to a profile of it."""

    title: str
    model: str
    about: str
    """One line, printed above the command that asks it."""
    prompt: str | None = None
    """Asked in place of the tour's question, unless the user typed one."""
    is_guarded: bool = False
    """Whether an enforced policy judges it; the table says so where it did not block."""


class Tour(_Closed):
    """What is asked of the demo, side by side."""

    question: str
    stops: tuple[Stop, ...] = Field(min_length=1)

    def asked(self, stop: Stop) -> str:
        """Return what a stop asks."""
        return self.question if stop.prompt is None else stop.prompt

    def asking(self, question: str | None) -> Self:
        """Return the tour on a question that the user typed: every stop asks it."""
        if question is None:
            return self
        stops = tuple(each.model_copy(update={"prompt": None}) for each in self.stops)
        return self.model_copy(update={"question": question, "stops": stops})

    def within(self, models: Collection[str], *, is_enforced: bool) -> Self:
        """Return the tour without stops that show what is not loaded or not enforced."""
        stops = [
            each
            for each in self.stops
            if each.model in models and (is_enforced or not each.is_guarded)
        ]
        return self.model_copy(update={"stops": tuple(stops)})


_Kind = TypeVar("_Kind", bound=BaseModel)


def load_prompts() -> DemoPrompts:
    """Read the invented world's prompts from the library.

    Raises:
        ConfigError: missing or not as described.
    """
    return _read(DemoPrompts, library_path("examples/demo") / "prompts.json")


def world_tour() -> Tour:
    """Return the tour of the invented world.

    Raises:
        ConfigError: as `load_prompts`.
    """
    prompts = load_prompts()
    return Tour(
        question=prompts.known,
        stops=(
            Stop(title="plain", model="demo", about="an answer, its scores beside it"),
            Stop(
                title="steered",
                model="demo:cheerful",
                about="the same, steered inside the forward pass: a profile is a model name",
            ),
            Stop(
                title="blocked",
                model="demo",
                about="a disguised request for something forbidden, declined before any token",
                prompt=prompts.blocked,
                is_guarded=True,
            ),
        ),
    )


def smol_tour() -> Tour:
    """Read the real model's tour from the library.

    Raises:
        ConfigError: missing or not as described.
    """
    return _read(Tour, library_path("probes/smol") / "prompts.json")


def _read(kind: type[_Kind], path: Path) -> _Kind:
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; reinstall pilothouse") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {error}") from error
