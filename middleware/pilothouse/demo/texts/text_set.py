"""A set of labelled texts: the wheel that holds it, how its texts are read, and their digest."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

from pilothouse.demo.cache import Tell
from pilothouse.demo.wheels import wheel_path
from pilothouse.errors import ConfigError
from pilothouse.probes.text_form import alike as alike
from pilothouse.probes.text_form import in_form as in_form

SHARES = float(1 << 56)


@dataclass(frozen=True, slots=True)
class Text:
    """What a user writes, a tool returns, or a model answers.

    `group` is shared by whatever must not be split; `kind` is the set's own words for
    parts of it that the text belongs to.
    """

    text: str
    label: bool
    group: str
    kind: str = ""
    question: str | None = None
    """Where the text is an answer: what was asked."""
    from_tool: bool = False
    """Whether the text is what a tool returned."""

    @property
    def share(self) -> float:
        """A number in [0, 1) by the group alone, so that whole groups are dealt out by it."""
        digest = hashlib.sha256(self.group.encode()).digest()
        return int.from_bytes(digest[:7], "big") / SHARES


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
        """Read every text of the set.

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
    """Return the hex sha256 over all texts with their labels and groups."""
    hasher = hashlib.sha256()
    for each in texts:
        hasher.update(json.dumps(astuple(each)).encode() + b"\n")
    return hasher.hexdigest()


def json_lines(text: str) -> list[dict[str, object]]:
    """Return the objects of a file with one a line."""
    return [json.loads(line) for line in text.splitlines() if line.strip()]
