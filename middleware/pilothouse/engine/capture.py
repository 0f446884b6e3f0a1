"""Activations as the served engine computes them: what probes and vectors are fitted from.

The same worker, taps and scheduler as a server, in this process; a tap's read rows are the
identity, so its read values are the residual stream itself.

Shape suffixes: L captured layers, P positions fed, D hidden size, T tokens of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pilothouse.config import Auth, Gate
from pilothouse.engine.offline import OfflineEngine
from pilothouse.engine.plan.plan import Plan, PlanBody
from pilothouse.engine.plan.spec import ModelFacts
from pilothouse.engine.plan.tap_plan import TapPlan
from pilothouse.engine.plan.turn_markers import TurnMarkers
from pilothouse.engine.scheduler.messages import Emissions
from pilothouse.engine.vllm.rpc import in_process_scheduler
from pilothouse.errors import ConfigError
from pilothouse.limits import Limits
from pilothouse.signed_request import SignedRequest
from pilothouse.types import FloatArray

BATCH = 256


@dataclass(slots=True)
class Captured:
    """One run: its tokens, and the stream at every position that was fed.

    `stream_LPD` is float32. The last sampled token is never fed, so P is one less than the number
    of tokens. `logprobs` are of the sampled tokens.
    """

    prompt_token_ids: list[int]
    output_token_ids: list[int]
    logprobs: list[float]
    stream_LPD: FloatArray

    @property
    def num_prompt_tokens(self) -> int:
        """Positions below this are the prompt's."""
        return len(self.prompt_token_ids)


@dataclass(slots=True)
class _Collector:
    num_layers: int
    parts: dict[str, list[FloatArray]] = field(default_factory=dict)

    def take(self, emissions: Emissions) -> None:
        """Keep a step's rows, by request."""
        first = 0
        for request_id, count in zip(emissions.request_ids, emissions.counts, strict=True):
            rows_TE = emissions.scores_TE[first : first + count]
            self.parts.setdefault(request_id, []).append(rows_TE)
            first += count

    def stream_LPD(self, request_id: str) -> FloatArray:
        """All rows of a request, layers first."""
        rows_PE = np.concatenate(self.parts.pop(request_id))
        return np.stack(np.split(rows_PE, self.num_layers, axis=1)).astype(np.float32)


class CaptureEngine:
    """Runs prompts greedily and returns the stream at some layers.

    Args:
        model: folder of the model.
        facts: its size.
        layers: where to read, `resid_post`.
        settings: passed to vLLM's `LLM` over eager float32 defaults.
    """

    def __init__(
        self, model: str, facts: ModelFacts, layers: Sequence[int], **settings: Any
    ) -> None:
        outside = [layer for layer in layers if not 0 <= layer < facts.num_layers]
        if outside or not layers:
            raise ConfigError(f"layers: got {list(layers)}, want some of 0..{facts.num_layers - 1}")
        self._engine = OfflineEngine(model, capture_plan(facts, layers), **settings)
        self._collector = _Collector(len(layers))
        in_process_scheduler(self._engine.llm).listeners.append(self._collector.take)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._engine.tokenizer

    def run(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[Captured]:
        """Each prompt's run, in order; `progress` hears how many more are done."""
        for first in range(0, len(prompts), BATCH):
            batch = prompts[first : first + BATCH]
            yield from self._batch(batch, max_tokens)
            if progress is not None:
                progress(len(batch))

    def _batch(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> Iterator[Captured]:
        request = SignedRequest(decision_id="", revision="", probes=("capture",))
        answers = self._engine.answers(prompts, [request] * len(prompts), max_tokens=max_tokens)
        # The scheduler's request ids are vLLM's with a random tail.
        ids = {each.rsplit("-", 1)[0]: each for each in self._collector.parts}
        for answer in answers:
            yield Captured(
                prompt_token_ids=answer.prompt_token_ids,
                output_token_ids=answer.token_ids,
                logprobs=answer.logprobs,
                stream_LPD=self._collector.stream_LPD(ids[answer.request_id]),
            )


def capture_plan(facts: ModelFacts, layers: Sequence[int]) -> Plan:
    """A plan whose read rows are the identity at some layers."""
    width = facts.d_model
    taps = tuple(
        TapPlan(
            layer=layer,
            site="resid_post",
            width=width,
            read_start=i * width,
            read_stop=(i + 1) * width,
        )
        for i, layer in enumerate(layers)
    )
    body = PlanBody(
        revision="capture",
        config_digest="capture",
        demo=False,
        model=facts,
        turns=TurnMarkers(),
        taps=taps,
        num_columns=width * len(layers),
        probes={},
        probe_signals=(),
        vectors={},
        saes={},
        policy_targets=(),
        policies=(),
        profiles={},
        operators=(),
        limits=Limits(max_programs=1),
        auth=Auth(),
        gate=Gate(),
    )
    identity_DD = np.eye(width, dtype=np.float32)
    return Plan.build(body, {f"reads/{layer}/resid_post": identity_DD for layer in layers})
