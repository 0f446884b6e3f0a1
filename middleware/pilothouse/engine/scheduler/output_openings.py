"""Finds where outputs open turns of the assistant, before the tokens that do so are fed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pilothouse.engine.scheduler.authorship import TurnReader
from pilothouse.engine.scheduler.request_state import RequestState
from pilothouse.engine.scheduler.spec_decode import Verified, sampled_ids
from pilothouse.engine.vllm.protocols import EngineCoreOutput, ModelRunnerOutput

Opening = tuple[str, int]
"""A request's id and a position of its output with which an assistant's turn opens."""


class OutputOpenings:
    """Looks at the tokens that each step brings.

    Args:
        reader: which tokens open whose turn.
        request_states: by request id; those with an authorship are looked at.
    """

    def __init__(self, reader: TurnReader, request_states: Mapping[str, RequestState]) -> None:
        self._reader = reader
        self._request_states = request_states

    def find(self, outputs: Sequence[EngineCoreOutput]) -> Iterator[Opening]:
        """Yield openings among the tokens that vLLM has appended in this step."""
        telling = self._reader.telling
        for output in outputs:
            state = self._request_states.get(output.request_id)
            if state is None or state.authorship is None:
                continue
            count = len(output.new_token_ids)
            for i, token_id in enumerate(output.new_token_ids):
                if (token_id in telling or state.in_turn_heading) and self._opens(
                    state, i - count, ()
                ):
                    yield output.request_id, state.request.num_tokens + i - count

    def find_drafted(
        self, runner_output: ModelRunnerOutput, verified: Mapping[str, Verified]
    ) -> Iterator[Opening]:
        """Yield openings among accepted drafts, which are fed in the step that tells of them."""
        telling = self._reader.telling
        for request_id in verified:
            state = self._request_states.get(request_id)
            if state is None or state.authorship is None:
                continue
            sampled = sampled_ids(runner_output, request_id)
            for i, token_id in enumerate(sampled):
                if (token_id in telling or state.in_turn_heading) and self._opens(
                    state, i, sampled[: i + 1]
                ):
                    yield request_id, state.request.num_tokens + i

    def _opens(self, state: RequestState, offset: int, unappended: Sequence[int]) -> bool:
        """Tell whether a position of a request is an anchor.

        Args:
            state: whose position it is; it has an authorship.
            offset: where it stands, from the first position that vLLM has not appended yet.
            unappended: tokens up to it that are not appended.
        """
        authorship = state.authorship
        assert authorship is not None
        position = state.request.num_tokens + offset
        stop = position + 1 - len(unappended)
        start = max(0, stop - self._reader.reach)
        ids = [*state.request.all_token_ids[start:stop], *unappended]
        opens = self._reader.is_anchor(authorship, ids, position)
        state.in_turn_heading = position < authorship.heading_until
        return opens
