"""What the gate asks of an endpoint: how it reads a request, and how it rewrites an answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pilothouse.limits import ServedLimits
from pilothouse.policy.endpoint_names import PATHS, EndpointName
from pilothouse.server.admission import Admitted
from pilothouse.server.request_schema import Body, RequestFields
from pilothouse.server.response.decisions import (
    ChoiceAction,
    ChoiceKey,
    ChoiceLog,
    FinalDecision,
    RequestDecisions,
    Settlement,
    Termination,
)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer on its way out: its request, what the engine told of it, and what settles it."""

    admitted: Admitted
    entry: RequestDecisions
    settler: FinalDecision

    def log(self, key: ChoiceKey) -> ChoiceLog | None:
        """Return what the engine told of a choice, None where it told nothing."""
        return self.entry.choices.get(key)

    def settle(self, key: ChoiceKey) -> Settlement:
        """End a choice by what was concluded of it; the final rules run here, once."""
        return self.settler.settle(self.admitted, self.entry, key)

    def unaccounted(self) -> Settlement:
        """End a choice of which the engine told nothing."""
        return self.settler.unaccounted(self.admitted)

    @property
    def mark(self) -> Json:
        """The `pilothouse` object of a body, or of a chunk of a stream."""
        return {
            "decision_id": self.admitted.decision_id,
            "revision": self.admitted.signed.revision,
        }


@dataclass(frozen=True, slots=True)
class Spoken:
    """A piece of what a choice says."""

    index: int
    text: str
    ended: bool
    """No more of the choice follows."""


class StreamRewriter(Protocol):
    """Rewrites the events of one streamed answer.

    Tokens under an output rule are held back in the scheduler, so what arrives here is cleared,
    unless a final rule may still end the answer: then each choice waits here for its end.
    """

    deeds: list[ChoiceAction]
    """What was done to each choice that has ended."""

    @property
    def failed(self) -> bool:
        """True once vLLM reported an error inside the stream."""

    @property
    def may_start(self) -> bool:
        """False while the engine has not been heard of: it may still refuse the request."""

    def feed(self, event: bytes) -> list[bytes]:
        """Return what is to be sent in place of one event."""


class Endpoint(ABC):
    """One route of vLLM's that generates."""

    name: ClassVar[EndpointName]

    @property
    def path(self) -> str:
        """The route, without the root path."""
        return PATHS[self.name]

    def unserved(self, model_config: Any) -> str | None:  # noqa: ARG002
        """Say why a server of this model cannot govern the endpoint; None where it can.

        Args:
            model_config: vLLM's.
        """
        return None

    async def refuse_large(self, body: Body, limits: ServedLimits) -> None:  # noqa: B027
        """Count what only bodies of this endpoint hold, before vLLM's models read them.

        Raises:
            RequestError: more than a bound allows; the message begins with the field.
        """

    @abstractmethod
    def read(self, body: Body) -> RequestFields:
        """Read a body as vLLM will, and write what was read back into it.

        Args:
            body: a JSON object without our own field; changed in place.

        Raises:
            Unreadable: vLLM itself refuses it, and says why better than we could.
            RequestError: it asks for what cannot be governed, or vLLM could not even say why.
        """

    @abstractmethod
    def shortest(self, body: Body) -> Body:
        """Return a body that makes one token, of a request that is blocked already.

        The answer has the shape and the usage that it would have had.
        """

    @abstractmethod
    def key(self, index: int, admitted: Admitted) -> ChoiceKey:
        """Return which prompt, and which of its `n`, a choice's `index` stands for."""

    @abstractmethod
    def as_error(self, ending: Termination, admitted: Admitted) -> bool:
        """Say whether a verdict on the prompt is answered with HTTP 400."""

    @abstractmethod
    def spoken(self, part: Json) -> Iterator[Spoken]:
        """Yield all that a whole body, or one event of a stream, says."""

    @abstractmethod
    def rewrite(self, body: Json, answer: Answer) -> list[ChoiceAction]:
        """Rewrite a whole answer in place, and say what was done to each choice."""

    @abstractmethod
    def stream(self, answer: Answer) -> StreamRewriter:
        """Return what rewrites a streamed answer."""
