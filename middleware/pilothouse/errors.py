"""The exception tree.

PilothouseError
├── ConfigError            a file or flag the operator wrote; says where, got, want, what to do
│   ├── ArtefactError      a vector, probe or SAE that cannot be used
│   ├── PolicyError        a policy that cannot be used (file and line)
│   └── UnsupportedError   a setting of the server that is refused, with the reason
├── RequestError           a client's request that is refused (HTTP 400 unless said)
└── EngineError            the engine is not what the plan says; start-up and readiness only
"""

from __future__ import annotations

import re
from collections.abc import Callable

MOST_CHARACTERS = 200
"""Of what was got, as it stands in a message."""
ARGUMENT = re.compile("\ue000([a-z_.]+)(?:\ue001([^\ue000-\ue002]*))?\ue002")
"""An argument's mark within a text, by characters that no text has: its name and a value."""
Spelling = Callable[[str, str | None], str]
"""Spells an argument, by its name in Python, with the value to give it or without."""


def argument(name: str, value: str | None = None) -> str:
    """Return a mark that names an argument in an error, and is spelled where the error is shown.

    Python's callers are told the argument, users of the command line the option that sets it.

    Args:
        name: the argument's own; `engine.max_model_len` is a key of the argument `engine`.
        value: what to give it.
    """
    return f"\ue000{name}\ue002" if value is None else f"\ue000{name}\ue001{value}\ue002"


def in_python(name: str, value: str | None) -> str:
    """Spell an argument as a caller in Python writes it."""
    whole, _, key = name.partition(".")
    told = f"{whole}[{key!r}]" if key else whole
    if value is None:
        return told
    is_plain = value in ("N", "True") or value.isdigit()
    return f"{told}={value if is_plain else repr(value)}"


def spelled(text: str, spelling: Spelling = in_python) -> str:
    """Return a text with the arguments in it spelled out."""
    return ARGUMENT.sub(lambda found: spelling(found[1], found[2]), text)


class PilothouseError(Exception):
    """Root of everything raised on purpose.

    Its text is either written out or made of four fields: `where: got ..., want ...; fix`.
    Arguments that it names by `argument` are spelled as Python's; a command line spells options.

    Args:
        message: the whole text, in place of the fields.
        where: the file, flag or field that is wrong.
        got: what stands there.
        want: what should stand there.
        fix: what to do about it; nothing where `want` says it.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        where: object = None,
        got: object = None,
        want: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.marked = sentence(where, got, want, fix) if message is None else message
        """The text with marks for arguments, for another error that goes on telling it."""
        super().__init__(spelled(self.marked))

    def spelled(self, spelling: Spelling) -> str:
        """Return the error's text with the arguments that it names in another spelling."""
        return spelled(self.marked, spelling)


class ConfigError(PilothouseError, ValueError):
    """An operator's file or flag is wrong."""


class ArtefactError(ConfigError):
    """A vector, probe or SAE file cannot be used."""


class PolicyError(ConfigError):
    """A policy cannot be used."""


class UnsupportedError(ConfigError):
    """A server setting is refused because it is not right with steering or probes."""


class RequestError(PilothouseError, ValueError):
    """A client's request is refused.

    Args:
        message: the whole text, in place of the fields.
        where: the field that is wrong.
        got: what stands there.
        want: what should stand there.
        fix: what to do about it.
        param: the field's name in the answer's error body.
        status: of the answer.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        where: object = None,
        got: object = None,
        want: str | None = None,
        fix: str | None = None,
        param: str | None = None,
        status: int = 400,
    ) -> None:
        super().__init__(message, where=where, got=got, want=want, fix=fix)
        self.param = param
        self.status = status


class EngineError(PilothouseError, RuntimeError):
    """The engine did not install what the plan says."""


def sentence(where: object, got: object, want: str | None, fix: str | None = None) -> str:
    """Return the one form of an error: where, what was got, what was wanted, what to do."""
    text = str(got)
    shown = text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."
    wanted = "" if want is None else f", want {want}"
    return f"{where}: got {shown}{wanted}{'' if fix is None else f'; {fix}'}"


def sendable(text: str) -> str:
    """Return the text with what is not Unicode (a lone surrogate) as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()
