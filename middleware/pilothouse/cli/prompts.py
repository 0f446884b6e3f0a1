"""The prompts that the demo prints and the tour shows; they come with the demo's world."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from pilothouse.errors import ConfigError
from pilothouse.library import library_path


class DemoPrompts(BaseModel):
    """One prompt of each kind that the tour needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    known: str
    """About a fact the model knows."""
    unknown: str
    """About a name it has never met."""
    benign: str
    """In the words of a forbidden request, and harmless."""
    blocked: str
    """A forbidden request in disguise."""


def load_prompts() -> DemoPrompts:
    """Read them from the library.

    Raises:
        ConfigError: missing or not as described.
    """
    path = library_path("examples/demo") / "prompts.json"
    try:
        return DemoPrompts.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; reinstall pilothouse") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {error}") from error
