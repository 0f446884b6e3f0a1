"""The language of a text by langid (Lui and Baldwin, 2012), out of all that it knows."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from pilothouse.demo.judges.judge import WORD, Judge
from pilothouse.errors import ConfigError

UNKNOWN: Final = "und"


@cache
def _identifier() -> Any:
    try:
        import py3langid
    except ImportError as error:
        raise ConfigError(
            "language: the package py3langid is not installed: pip install 'pilothouse[card]'"
        ) from error
    return py3langid.classify


def language(text: str) -> str:
    """Return the code of the likeliest language; `und` for a text without words."""
    if not WORD.search(text):
        return UNKNOWN
    return str(_identifier()(text)[0])


def is_french(text: str) -> float:
    """Return 1 for a text in French, else 0."""
    return float(language(text) == "fr")


def is_spanish(text: str) -> float:
    """Return 1 for a text in Spanish, else 0."""
    return float(language(text) == "es")


FRENCH: Final = Judge("french", "share of answers that langid finds to be French", is_french, 1.0)
SPANISH: Final = Judge(
    "spanish", "share of answers that langid finds to be Spanish", is_spanish, 1.0
)
