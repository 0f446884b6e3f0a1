"""Tokens that were sampled and may not leave yet, with their log-probabilities."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from pilothouse.engine.vllm import outputs


@dataclass(slots=True)
class Held:
    """One token, its logprob slice, and when it came."""

    token_id: int
    logprobs: Any
    since: float


@dataclass(slots=True)
class HoldBack:
    """A queue of tokens; `visible_limit` is the client's max_tokens."""

    visible_limit: int
    released: int = 0
    longest_seconds: float = 0.0
    _held: deque[Held] = field(default_factory=deque)

    def push(self, token_ids: list[int], logprobs: Any) -> None:
        """Take in a step's tokens."""
        now = time.monotonic()
        for i, token_id in enumerate(token_ids):
            self._held.append(Held(token_id, outputs.slice_logprobs(logprobs, i), now))

    def exchange(self, token_ids: list[int], up_to: int) -> list[int] | None:
        """Push one token that has no logprobs and release the only one held: the steady state.

        None, and nothing done, where more than that is to happen.
        """
        if len(self._held) != 1 or len(token_ids) != 1:
            return None
        held = self._held[0]
        if min(up_to, self.visible_limit) != self.released + 1 or held.logprobs is not None:
            return None
        now = time.monotonic()
        self.longest_seconds = max(self.longest_seconds, now - held.since)
        self.released += 1
        self._held[0] = Held(token_ids[0], None, now)
        return [held.token_id]

    def release(self, up_to: int) -> tuple[list[int], Any]:
        """Tokens with index below `up_to` and below the client's limit, with their logprobs."""
        now = time.monotonic()
        leaving: list[Held] = []
        limit = min(up_to, self.visible_limit)
        while self._held and self.released < limit:
            held = self._held.popleft()
            self.longest_seconds = max(self.longest_seconds, now - held.since)
            self.released += 1
            leaving.append(held)
        logprobs = outputs.join_logprobs([held.logprobs for held in leaving])
        return [held.token_id for held in leaving], logprobs

    def drop(self) -> int:
        """Forget what is held; how many tokens that were."""
        count = len(self._held)
        self._held.clear()
        return count

    def __len__(self) -> int:
        return len(self._held)
