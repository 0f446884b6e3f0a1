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


class PilothouseError(Exception):
    """Root of everything raised on purpose."""


class ConfigError(PilothouseError, ValueError):
    """An operator's file or flag is wrong."""


class ArtefactError(ConfigError):
    """A vector, probe or SAE file cannot be used."""


class PolicyError(ConfigError):
    """A policy cannot be used."""


class UnsupportedError(ConfigError):
    """A server setting is refused because it is not right with steering or probes."""


class RequestError(PilothouseError, ValueError):
    """A client's request is refused."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.status = status


class EngineError(PilothouseError, RuntimeError):
    """The engine did not install what the plan says."""


def sendable(text: str) -> str:
    """The text with what is not Unicode (a lone surrogate) as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()
