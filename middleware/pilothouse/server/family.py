"""What one endpoint family must know for the gate to shape its answers."""

from __future__ import annotations

from typing import Any, Protocol

from pilothouse.policy.endpoint import Endpoint
from pilothouse.server.admission import Admitted
from pilothouse.server.ledger import ChoiceKey
from pilothouse.server.settlement import Ending

Choice = dict[str, Any]
Json = dict[str, Any]


class Family(Protocol):
    """Shapes of one endpoint. Choices are plain JSON objects as vLLM made them."""

    endpoint: Endpoint
    object_name: str
    """What vLLM writes under `object` of a chunk."""
    id_prefix: str

    def key(self, index: int, admitted: Admitted) -> ChoiceKey:
        """Which prompt and which of its `n` a choice's `index` stands for."""

    def as_error(self, ending: Ending, admitted: Admitted) -> bool:
        """A verdict on the prompt is answered with HTTP 400."""

    def end_whole(self, choice: Choice, ending: Ending) -> None:
        """Rewrite a choice of a body, in place, into how a verdict ends it."""

    def cleared_part(self, choice: Choice) -> Choice | None:
        """What a finishing chunk still carries of cleared tokens; None if nothing."""

    def ending_parts(self, index: int, ending: Ending) -> list[Choice]:
        """The choices of the chunks that end a stream; the last has the finish reason."""

    def is_opening(self, choice: Choice) -> bool:
        """A chunk that opens a choice and says nothing yet."""


def blocked_body(body: Json) -> None:
    """Take out of a body what shows more of a blocked answer than its choices do, in place."""
    for name in ("prompt_logprobs", "kv_transfer_params", "ec_transfer_params"):
        if name in body:
            body[name] = None
