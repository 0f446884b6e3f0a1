"""A set of labelled texts: the wheel that holds it, what is read of it, and the digest of that."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

from pilothouse.demo.cache import Tell
from pilothouse.demo.texts.text import Text
from pilothouse.demo.wheels import wheel_path
from pilothouse.errors import ConfigError


@dataclass(frozen=True)
class TextSet:
    """One data set inside one wheel.

    `count` and `digest` are of what `read` returned when the set was entered here; `read` gets the
    text of each of `paths`, in order.
    """

    name: str
    wheel: str
    paths: tuple[str, ...]
    licence: str
    count: int
    digest: str
    read: Callable[..., list[Text]]

    def texts(self, tell: Tell) -> list[Text]:
        """Every text of the set.

        Raises:
            ConfigError: the wheel cannot be had, or does not hold what it held.
        """
        place = wheel_path(self.wheel, tell)
        with zipfile.ZipFile(place) as wheel:
            try:
                files = [wheel.read(path).decode("utf-8") for path in self.paths]
            except KeyError as error:
                raise ConfigError(
                    f"{place}: {error.args[0]}; want {list(self.paths)}: {self.name} is not where "
                    "it was"
                ) from error
        found = self.read(*files)
        digest = digest_of(found)
        if (len(found), digest) != (self.count, self.digest):
            raise ConfigError(
                where=f"{place}: {self.name}",
                got=f"{len(found)} texts with digest {digest}",
                want=f"{self.count} with {self.digest}",
                fix="figures made of it would be of other texts",
            )
        return found


def digest_of(texts: Sequence[Text]) -> str:
    """Hex sha256 over all texts with their labels and groups."""
    hasher = hashlib.sha256()
    for each in texts:
        hasher.update(json.dumps(astuple(each)).encode() + b"\n")
    return hasher.hexdigest()


def json_lines(text: str) -> list[dict[str, object]]:
    """The objects of a file with one a line."""
    return [json.loads(line) for line in text.splitlines() if line.strip()]
