"""A drafter that knows the answers and spoils some of its drafts, and what became of drafts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.engines.harness import Engine

NUM_DRAFTS = 4
SPOILED = 7
"""Every so many positions the draft is wrong, and all behind it in the same step are in vain."""
KNOWING: dict[str, Any] = {
    "method": "custom_class",
    "model": "tests.support.engines.drafters.Knowing",
    "num_speculative_tokens": NUM_DRAFTS,
}
NGRAM: dict[str, Any] = {
    "method": "ngram",
    "num_speculative_tokens": 3,
    "prompt_lookup_max": 3,
    "prompt_lookup_min": 1,
}


class Knowing:
    """Drafts from `known`: whole sequences, prompt and answer, of which requests have a part."""

    known: list[list[int]] = []  # noqa: RUF012

    def __init__(self, vllm_config: Any) -> None:
        self._most = vllm_config.model_config.max_model_len

    def load_model(self, *_: Any) -> None:
        """There are no weights; vLLM's CPU runner asks every drafter."""

    def propose(
        self, sampled: list[list[int]], num_tokens_B: Any, token_ids_BT: Any, **_: Any
    ) -> list[list[int]]:
        """vLLM's interface for drafters of a user's own."""
        return [
            self._draft(token_ids_BT[i, : num_tokens_B[i]].tolist()) if tokens else []
            for i, tokens in enumerate(sampled)
        ]

    def _draft(self, tokens: list[int]) -> list[int]:
        count = len(tokens)
        if count >= self._most:
            return []
        follows = next((each for each in self.known if each[:count] == tokens), [])
        return [
            token if position % SPOILED else (token + 1) % 256
            for position, token in enumerate(follows[count : count + NUM_DRAFTS], start=count)
        ]


@contextmanager
def knowing(sequences: list[list[int]]) -> Iterator[None]:
    """The drafter of engines in this process knows these."""
    Knowing.known, before = sequences, Knowing.known
    try:
        yield
    finally:
        Knowing.known = before


def watch_drafts(started: Engine) -> list[tuple[int, int]]:
    """From now on (drafts, accepted) of every request with drafts in a step."""
    seen: list[tuple[int, int]] = []
    update = started.scheduler.update_from_output

    def watched(scheduled: Any, output: Any) -> Any:
        for request_id, drafts in scheduled.scheduled_spec_decode_tokens.items():
            sampled = output.sampled_token_ids[output.req_id_to_index[request_id]]
            seen.append((len(drafts), len(sampled) - 1))
        return update(scheduled, output)

    started.scheduler.update_from_output = watched
    return seen
