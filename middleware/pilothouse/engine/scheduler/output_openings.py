"""Where assistant's turns open in outputs, seen before the tokens that open them are fed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pilothouse.engine.scheduler.authorship import TurnReader
from pilothouse.engine.scheduler.request_state import RequestState
from pilothouse.engine.scheduler.spec_decode import Verified, sampled_ids
from pilothouse.engine.vllm.protocols import EngineCoreOutput, ModelRunnerOutput

Mark = Callable[[str, int], None]
"""Have the values read at openings rise with a position of a request."""


class OutputOpenings:
    """Looks at the tokens that each step brings.

    Args:
        request_states: by request id; those with an authorship are looked at.
    """

    def __init__(
        self, reader: TurnReader, request_states: Mapping[str, RequestState], mark: Mark
    ) -> None:
        self._reader = reader
        self._request_states = request_states
        self._mark = mark
        self._headed: set[str] = set()
        """Requests whose output began a turn of a role not known yet."""

    def find(self, outputs: Sequence[EngineCoreOutput]) -> None:
        """Mark tokens that vLLM has taken down in this step; they are fed next."""
        telling, headed = self._reader.telling, self._headed
        for output in outputs:
            count = len(output.new_token_ids)
            for i, token_id in enumerate(output.new_token_ids):
                if token_id in telling or output.request_id in headed:
                    self._look_back(output.request_id, i - count, ())

    def find_drafted(
        self, runner_output: ModelRunnerOutput, verified: Mapping[str, Verified]
    ) -> None:
        """The same of drafts: those accepted are fed in the very step that tells of them."""
        for request_id in verified:
            sampled = sampled_ids(runner_output, request_id)
            for i, token_id in enumerate(sampled):
                if token_id in self._reader.telling or request_id in self._headed:
                    self._look_back(request_id, i, sampled[: i + 1])

    def forget(self, request_id: str) -> None:
        """A request has ended."""
        self._headed.discard(request_id)

    def _look_back(self, request_id: str, offset: int, unappended: Sequence[int]) -> None:
        """Mark a position of a request if it is an anchor.

        Args:
            offset: where it stands, from the first position that vLLM has not taken down yet.
            unappended: tokens up to it that are not taken down.
        """
        request_state = self._request_states.get(request_id)
        if request_state is None or request_state.authorship is None:
            return
        position = request_state.request.num_tokens + offset
        stop = position + 1 - len(unappended)
        start = max(0, stop - self._reader.reach)
        ids = [*request_state.request.all_token_ids[start:stop], *unappended]
        if self._reader.is_anchor(request_state.authorship, ids, position):
            self._mark(request_id, position)
        if position < request_state.authorship.heading_until:
            self._headed.add(request_id)
        else:
            self._headed.discard(request_id)
