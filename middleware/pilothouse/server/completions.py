"""/v1/completions: how a blocked or answered-for choice looks."""

from __future__ import annotations

from typing import Any

from pilothouse.policy.endpoint import Endpoint
from pilothouse.server.admission import Admitted
from pilothouse.server.ledger import ChoiceKey
from pilothouse.server.settlement import Ending

_WITHHELD = (
    "logprobs", "stop_reason", "token_ids", "prompt_logprobs", "prompt_token_ids", "routed_experts",
    "weight_versions",
)  # fmt: skip


class Completions:
    """Shapes of completions. They have no refusal: a blocked prompt is an error."""

    endpoint: Endpoint = "completions"
    object_name = "text_completion"
    id_prefix = "cmpl-"

    def key(self, index: int, admitted: Admitted) -> ChoiceKey:
        """`n` answers of the first prompt, then of the next."""
        return divmod(index, admitted.num_per_prompt)

    def as_error(self, ending: Ending, admitted: Admitted) -> bool:
        """A blocked prompt, unless others of the same request still get an answer."""
        return ending.deed == "block" and admitted.num_prompts == 1

    def end_whole(self, choice: dict[str, Any], ending: Ending) -> None:
        """No text, or the canned answer."""
        choice["text"] = ending.message if ending.deed == "respond" else ""
        for name in _WITHHELD:
            if name in choice:
                choice[name] = None
        choice["finish_reason"] = _finish_reason(ending)

    def cleared_part(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        """The text, if there is any."""
        if not choice["text"] and not choice.get("token_ids"):
            return None
        kept = {**choice, "finish_reason": None, "stop_reason": None}
        kept.pop("weight_versions", None)
        return kept

    def ending_parts(self, index: int, ending: Ending) -> list[dict[str, Any]]:
        """One chunk: it finishes, with the canned answer if there is one."""
        text = ending.message if ending.deed == "respond" else ""
        part = {"index": index, "text": text, "logprobs": None}
        part |= {"finish_reason": _finish_reason(ending), "stop_reason": None}
        return [{**part, "prompt_token_ids": None, "token_ids": None}]

    def is_opening(self, choice: dict[str, Any]) -> bool:  # noqa: ARG002
        """Completions have no opening chunk."""
        return False


def _finish_reason(ending: Ending) -> str:
    return "stop" if ending.deed == "respond" else "content_filter"
