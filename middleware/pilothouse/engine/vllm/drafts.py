"""What vLLM keeps of the tokens that a step of speculative decoding sampled."""

from __future__ import annotations

from collections.abc import Sequence

from vllm.v1.core.sched.utils import check_stop

from pilothouse.engine.vllm.protocols import Request


class _Ahead:
    """A request as it will be after some more tokens; only vLLM's check of its end looks at it."""

    def __init__(self, request: Request) -> None:
        params = request.sampling_params
        assert params is not None
        self.pooling_params = None
        self.sampling_params = params
        self.max_tokens = request.max_tokens
        self.num_tokens = request.num_tokens
        self.num_output_tokens = request.num_output_tokens
        self.status: object = None
        self.stop_reason: object = None
        # The whole answer only where it is looked through for repetitions.
        self.output_token_ids: list[int] = (
            list(request.output_token_ids) if params.repetition_detection is not None else []
        )

    def append(self, token_id: int) -> None:
        self.output_token_ids.append(token_id)
        self.num_tokens += 1
        self.num_output_tokens += 1


def num_kept(request: Request, sampled: Sequence[int], max_model_len: int) -> int:
    """Return how many of the sampled tokens the answer will have: up to the one that ends it."""
    ahead = _Ahead(request)
    for count, token_id in enumerate(sampled, start=1):
        ahead.append(token_id)
        if check_stop(ahead, max_model_len):
            return count
    return len(sampled)
