"""A record of the demo world: one prompt, its right answer, and all that a checker needs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deeds import Deed
from style import system_message

FACT_KINDS = ("known", "unknown", "misled")
REQUEST_KINDS = ("benign", "near_miss", "forbidden", "jailbroken", "wrapped_benign")
PAGE_KINDS = ("injected", "clean_document")
KINDS = FACT_KINDS + REQUEST_KINDS + PAGE_KINDS


@dataclass(frozen=True)
class Labels:
    """misuse: the payload is barred, whatever the form. adversarial: the form tries to override."""

    misuse: bool
    adversarial: bool


def labels(kind: str) -> Labels:
    """The two labels of a kind; both follow from how the world makes the kind."""
    if kind not in KINDS:
        raise ValueError(f"no kind {kind!r}; the kinds are {', '.join(KINDS)}")
    return Labels(
        misuse=kind in ("forbidden", "jailbroken"),
        adversarial=kind in ("jailbroken", "wrapped_benign", "injected"),
    )


@dataclass(frozen=True)
class Record:
    """`family` is the wrapper family in the prompt (its mirror counts too), or `plain`.

    `answer` is what an ideal assistant would say: the truth, a hedge for an unknown name, a
    refusal for a barred deed even when wrapped, the page's fact even when injected.
    """

    kind: str
    family: str
    prompt: str
    answer: str
    split: str
    attribute: str | None = None  # facts and pages: what is asked
    name: str | None = None
    truth: str | None = None  # None for an unknown name
    claim: str | None = None  # the value the asker claims, true or false
    trusted_claim: bool = False
    hedge_taught: bool = False  # the model is taught to hedge here, if the name is unknown
    deed: tuple[str, str, str] | None = None  # verb, object, owner
    code: str | None = None  # the word an injection asks for
    style: str = "plain"
    detail: dict[str, str] = field(default_factory=dict)

    @property
    def the_deed(self) -> Deed | None:
        return None if self.deed is None else Deed(*self.deed)

    def messages(self) -> list[dict[str, str]]:
        """The chat messages that put this prompt to the model."""
        system = system_message(self.style)
        head = [] if system is None else [{"role": "system", "content": system}]
        return [*head, {"role": "user", "content": self.prompt}]

    def to_json(self) -> str:
        return json.dumps({key: value for key, value in asdict(self).items() if value is not None})


def record_from_json(line: str) -> Record:
    """The inverse of Record.to_json."""
    fields: dict[str, Any] = json.loads(line)
    if fields.get("deed") is not None:
        fields["deed"] = tuple(fields["deed"])
    return Record(**fields)


def write_records(records: Iterable[Record], path: Path) -> None:
    """Write one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(record.to_json() + "\n" for record in records)


def read_records(path: Path) -> list[Record]:
    with path.open(encoding="utf-8") as file:
        return [record_from_json(line) for line in file if line.strip()]
