"""One labelled text, and the two forms in which it is read."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass

from pilothouse.probes.report import Form

FINAL_MARKS = ".?!,;:…\"'`)"
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
    """The text is what a tool returned."""

    @property
    def share(self) -> float:
        """A number in [0, 1) that hangs on the group alone: whole groups are dealt out by it."""
        digest = hashlib.sha256(self.group.encode()).digest()
        return int.from_bytes(digest[:7], "big") / SHARES


def alike(text: str) -> str:
    """The text in lower case, its white space single, without marks at its end.

    Sets differ in how they are written, and a probe that sees it has found nothing else.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).lower().split())
    return plain.rstrip(FINAL_MARKS + " ") or plain


def in_form(text: str, form: Form) -> str:
    """The text as a form has it."""
    return alike(text) if form == "alike" else text
