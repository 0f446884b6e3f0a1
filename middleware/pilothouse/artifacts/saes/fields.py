"""The configuration beside foreign weights: JSON of which only what we know is believed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilothouse.artifacts.folder import MAX_MANIFEST_BYTES, parse_json, read_file, refuse

CORRECT = "correct the field, or fetch the file anew from its source"


class Fields:
    """Fields by name, each asked for by its type; null counts as not there."""

    def __init__(self, place: Path, raw: Mapping[str, Any]) -> None:
        self.place = place
        self.raw = raw

    def text(self, name: str, default: str | None = None) -> str:
        """A string; without a default it must be there."""
        found = self._found(name, default)
        if not isinstance(found, str) or not 0 < len(found) <= 512:
            refuse(self.place, name, repr(found), "a string of 1 to 512 characters", CORRECT)
        return found

    def whole(self, name: str, default: int | None = None) -> int:
        """A positive whole number."""
        found = self._found(name, default)
        if isinstance(found, bool) or not isinstance(found, int) or not 0 < found <= 1 << 24:
            refuse(self.place, name, repr(found), "a whole number, 1 to 2^24", CORRECT)
        return found

    def number(self, name: str, default: float | None = None) -> float:
        """A number."""
        found = self._found(name, default)
        if isinstance(found, bool) or not isinstance(found, int | float) or abs(found) > 1e30:
            refuse(self.place, name, repr(found), "a number", CORRECT)
        return float(found)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        found = self._found(name, default)
        if not isinstance(found, bool):
            refuse(self.place, name, repr(found), "true or false", CORRECT)
        return found

    def group(self, name: str) -> Fields:
        """Fields inside a field; none where it is not there."""
        found = self._found(name, {})
        if not isinstance(found, dict):
            refuse(self.place, name, repr(found), "an object", CORRECT)
        return Fields(self.place, found)

    def has(self, name: str) -> bool:
        """Whether it is there and not null."""
        return self.raw.get(name) is not None

    def never(self, name: str, why: str) -> None:
        """Refuse a field that changes the meaning in a way that is not read.

        Raises:
            ArtefactError: it is there and neither null, false nor empty.
        """
        if self.raw.get(name):
            refuse(self.place, name, repr(self.raw[name]), "none", why)

    def _found(self, name: str, default: Any) -> Any:
        found = self.raw.get(name)
        return default if found is None else found


def read_fields(place: Path) -> Fields:
    """The fields of a JSON file.

    Raises:
        ArtefactError: missing, linked, too long or not an object.
    """
    return Fields(place, parse_json(place, read_file(place, MAX_MANIFEST_BYTES)))
