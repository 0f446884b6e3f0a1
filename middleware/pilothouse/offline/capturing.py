"""A capture's prompts given to the engine wave by wave, governed as a batch is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm import SamplingParams
from vllm.exceptions import VLLMClientError

from pilothouse.capture.index import CaptureIndex, open_folder
from pilothouse.capture.order import CaptureOrder
from pilothouse.capture.reader import CaptureReader
from pilothouse.engine.capture_session import WAVE, CaptureSession, capture_params
from pilothouse.errors import ConfigError, EngineError
from pilothouse.offline.governance import Governance, request_fields
from pilothouse.policy.endpoint_names import EndpointName
from pilothouse.progress import Advance, Phase
from pilothouse.progress import progress as shown_progress

Enqueue = Callable[[Any, SamplingParams], str]
"""Gives one prompt to the engine; vLLM's id of its request."""


@dataclass(frozen=True)
class Capturing:
    """One call of `LLM.capture`, its arguments checked.

    Args:
        llm: vLLM's `LLM`.
        prompts: every one, also those that an earlier call has done.
        endpoint: whose policies hold.
    """

    llm: Any
    governance: Governance
    order: CaptureOrder
    prompts: Sequence[Any]
    endpoint: EndpointName
    enqueue: Enqueue

    def into(self, folder: Path, index: CaptureIndex, *, progress: bool) -> CaptureReader:
        """Write what `folder` lacks; `index` is that of a capture that has not begun."""
        index = open_folder(folder, index)
        if index.complete:
            return CaptureReader(folder)
        done = set(CaptureReader(folder).prompts_done.tolist()) if index.shards else set()
        left = [number for number in range(len(self.prompts)) if number not in done]
        index = index.model_copy(update={"run": index.run + bool(index.shards)})
        with (
            shown_progress(shown=progress) as phase,
            CaptureSession(
                self.llm, index, folder, _captured(phase, len(self.prompts), len(done))
            ) as collection,
        ):
            for first in range(0, len(left), WAVE):
                self._wave(left[first : first + WAVE], collection)
        return CaptureReader(folder)

    def _wave(self, numbers: list[int], collection: CaptureSession) -> None:
        params = [capture_params(number, self.order.max_tokens) for number in numbers]
        fields = request_fields(self.order.steer, (), "none", len(numbers))
        outputs = self.governance.run(
            self.endpoint,
            params,
            fields,
            self.order.profile,
            lambda signed: collection.wait(self._given(numbers, signed)),
        )
        for number, output in zip(numbers, outputs, strict=True):
            _check(number, output.outputs[0].pilothouse, collection)

    def _given(self, numbers: list[int], params: list[SamplingParams]) -> dict[str, int]:
        """Give prompts to the engine; return each prompt's number by vLLM's id of its request."""
        waiting: dict[str, int] = {}
        for number, each in zip(numbers, params, strict=True):
            try:
                waiting[self.enqueue(self.prompts[number], each)] = number
            except (ValueError, VLLMClientError) as error:
                self.llm.llm_engine.abort_request(list(waiting), internal=True)
                raise ConfigError(f"prompts: number {number}: {error}") from error
        return waiting


def _captured(phase: Phase, total: int, done: int) -> Advance:
    advance = phase("captured prompts", total)
    advance(done)
    return advance


def _check(number: int, told: dict[str, Any], collection: CaptureSession) -> None:
    """Take down what policies did; a request that the engine turned away has no rows."""
    action = told["action"]
    if action == "refused":
        raise EngineError(f"prompt {number} was turned away: {told['error']}")
    if action != "allow":
        collection.acted(action, number)
