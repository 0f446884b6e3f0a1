"""/v1/chat/completions: how a blocked or answered-for choice looks."""

from __future__ import annotations

from typing import Any

from pilothouse.policy.endpoint import Endpoint
from pilothouse.server.admission import Admitted
from pilothouse.server.ledger import ChoiceKey
from pilothouse.server.settlement import Ending

_WITHHELD = ("logprobs", "stop_reason", "token_ids", "routed_experts", "weight_versions")
_SAID = ("content", "reasoning", "function_call", "audio", "annotations", "refusal")


class Chat:
    """Shapes of chat completions."""

    endpoint: Endpoint = "chat"
    object_name = "chat.completion.chunk"
    id_prefix = "chatcmpl-"

    def key(self, index: int, admitted: Admitted) -> ChoiceKey:  # noqa: ARG002
        """One prompt, `n` answers."""
        return (0, index)

    def as_error(self, ending: Ending, admitted: Admitted) -> bool:  # noqa: ARG002
        """As the rule says."""
        return ending.as_error

    def end_whole(self, choice: dict[str, Any], ending: Ending) -> None:
        """A refusal with null content, or the canned answer."""
        message = choice["message"]
        for name in _SAID:
            if name in message:
                message[name] = None
        message.pop("tool_calls", None)
        message["content"], message["refusal"] = _content(ending), _refusal(ending)
        for name in _WITHHELD:
            if name in choice:
                choice[name] = None
        choice["finish_reason"] = _finish_reason(ending)

    def cleared_part(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        """The delta, if it says anything."""
        if not any(choice["delta"].values()) and not choice.get("token_ids"):
            return None
        kept = {**choice, "finish_reason": None}
        for name in ("stop_reason", "weight_versions"):
            kept.pop(name, None)
        return kept

    def ending_parts(self, index: int, ending: Ending) -> list[dict[str, Any]]:
        """One chunk with the refusal or canned text, one with the finish reason."""
        said = {"refusal": ending.message}
        if ending.deed == "respond":
            said = {"content": ending.message}
        empty = {"index": index, "delta": {}, "logprobs": None, "finish_reason": None}
        end = {"finish_reason": _finish_reason(ending), "stop_reason": None}
        return [
            {**empty, "delta": said, "token_ids": None},
            {**empty, **end, "token_ids": None},
        ]

    def is_opening(self, choice: dict[str, Any]) -> bool:
        """The chunk that names the role."""
        delta = choice["delta"]
        return "role" in delta and not delta.get("content")


def _finish_reason(ending: Ending) -> str:
    return "stop" if ending.deed == "respond" else "content_filter"


def _content(ending: Ending) -> str | None:
    return ending.message if ending.deed == "respond" else None


def _refusal(ending: Ending) -> str | None:
    return None if ending.deed == "respond" else ending.message
