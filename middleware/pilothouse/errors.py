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

MOST_CHARACTERS = 200
"""Of what was got, as it stands in a message."""


class PilothouseError(Exception):
    """Root of everything raised on purpose.

    Its text is either written out or made of four fields: `where: got ..., want ...; fix`.

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
        super().__init__(sentence(where, got, want, fix) if message is None else message)


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
