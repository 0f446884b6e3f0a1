"""A capture in a worker: which tokens of a step get rows, and what is at the asked places.

Only requests that carry a prompt number count. A position is taken the first time it is fed, so
that what a preemption feeds again comes once. A value is what the model goes on with: behind any
edit at the same place.

Shape suffixes: B requests of a step, R rows of a step, T tokens, D width of a place on this rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from vllm.distributed import tensor_model_parallel_all_gather

from pilothouse.capture.index import (
    OUTPUT_PHASE,
    PROMPT_PHASE,
    CaptureIndex,
    PlaceEntry,
    place_name,
)
from pilothouse.capture.order import CaptureOrder
from pilothouse.engine.hooks import HookPoint
from pilothouse.engine.hooks.hook_point import Call
from pilothouse.engine.vllm.model_runner import step_token_ids
from pilothouse.engine.vllm.protocols import SchedulerOutput
from pilothouse.engine.vllm.runner_protocols import ModelRunner
from pilothouse.engine.worker.shard_writer import DTYPES, Ended, ShardWriter, StepRows
from pilothouse.types import IntArray, Tap

PROMPT_KEY = "pilothouse_capture_prompt"
"""In `SamplingParams.extra_args`: the number of the prompt in its capture."""


@dataclass(slots=True)
class _Prompt:
    """One request: positions [taken, stop) are still to come; `gap` where one was passed over."""

    number: int
    num_prompt_tokens: int
    start: int
    stop: int
    taken: int
    gap: bool = False


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Rows of the step that is being run: token numbers in the batch, and their labels."""

    tokens_R: Tensor
    prompt_R: Tensor
    position_R: Tensor
    phase_R: Tensor


class ActivationRecorder:
    """Owner of a capture's state in one worker; `writer` on the rank that writes.

    An error of the disk ends the capture and not the engine: `problem` says what it was.
    """

    def __init__(
        self, index: CaptureIndex, folder: Path, points: dict[Tap, HookPoint], *, writes: bool
    ) -> None:
        self._order: CaptureOrder = index.order
        self._points = points
        self._dtype = DTYPES[index.order.dtype]
        self.problem: str | None = None
        self._prompts: dict[str, _Prompt] = {}
        self._by_number: dict[int, _Prompt] = {}
        self._wanted: _Wanted | None = None
        self._values: dict[str, Tensor] = {}
        self._writer: ShardWriter | None = None
        if writes:
            places = tuple(
                PlaceEntry(
                    name=place_name(place), layer=place.layer, site=place.site, width=point.total
                )
                for place, point in points.items()
            )
            self._writer = ShardWriter(folder, index.model_copy(update={"places": places}))

    @property
    def points(self) -> dict[Tap, HookPoint]:
        """Where to put what `reader` gives."""
        return self._points

    @property
    def rows_held(self) -> int:
        """Rows in memory."""
        return self._writer.rows_held if self._writer is not None else 0

    @property
    def rows_written(self) -> int:
        """Rows on disk."""
        return self._writer.rows_written if self._writer is not None else 0

    def reader(self, place: Tap) -> Call:
        """Return what to call with the values of a place in each forward pass."""
        return partial(self._read, self._points[place], place_name(place))

    def begin(self, scheduler_output: SchedulerOutput) -> None:
        """Take in the numbers of requests that are new in a step."""
        self._wanted = None
        self._values.clear()
        for request in scheduler_output.scheduled_new_reqs:
            params = request.sampling_params
            number = ((params and params.extra_args) or {}).get(PROMPT_KEY)
            if number is not None and request.req_id not in self._prompts:
                count = len(request.prompt_token_ids or ())
                start, stop = self._order.span(count)
                prompt = _Prompt(number, count, start, stop, start)
                self._prompts[request.req_id] = self._by_number[number] = prompt

    def on_step(self, request_ids: Sequence[str], starts_B: IntArray, counts_B: IntArray) -> None:
        """The batch of the forward pass that comes: request b feeds starts[b] .. + counts[b]."""
        firsts_B = np.cumsum(counts_B) - counts_B
        tokens: list[IntArray] = []
        labels: list[tuple[int, IntArray, int]] = []
        for request_id, start, count, first in zip(
            request_ids, starts_B.tolist(), counts_B.tolist(), firsts_B.tolist(), strict=True
        ):
            prompt = self._prompts.get(request_id)
            if prompt is None:
                continue
            low, high = max(start, prompt.taken), min(start + count, prompt.stop)
            if high <= low:
                continue
            prompt.gap = prompt.gap or low > prompt.taken
            prompt.taken = high
            positions = np.arange(low, high)
            tokens.append(positions - start + first)
            labels.append((prompt.number, positions, prompt.num_prompt_tokens))
        if not tokens or self.problem is not None:
            return
        position_R = np.concatenate([each[1] for each in labels])
        counts = [len(each[1]) for each in labels]
        prompt_R = np.repeat([each[0] for each in labels], counts)
        is_output_R = position_R >= np.repeat([each[2] for each in labels], counts)
        self._wanted = _Wanted(
            torch.from_numpy(np.concatenate(tokens)),
            torch.from_numpy(prompt_R),
            torch.from_numpy(position_R),
            torch.from_numpy(np.where(is_output_R, OUTPUT_PHASE, PROMPT_PHASE)),
        )

    def finish(self, runner: ModelRunner) -> None:
        """Hand the rows of the forward pass that was run to the writer."""
        wanted, self._wanted = self._wanted, None
        if wanted is None or self._writer is None:
            return
        missing = [
            place_name(each) for each in self._points if place_name(each) not in self._values
        ]
        if missing:
            self.problem = f"nothing was computed at {missing} in a forward pass"
            return
        token_ids_T = step_token_ids(runner)
        labels = {
            "prompt": wanted.prompt_R,
            "position": wanted.position_R,
            "token_id": token_ids_T[wanted.tokens_R.to(token_ids_T.device)].cpu(),
            "phase": wanted.phase_R,
        }
        try:
            self._writer.append(StepRows(labels, self._values))
        except OSError as error:
            self.problem = _problem_of(error)
        self._values = {}

    def end(self, ended: Sequence[Ended]) -> None:
        """These prompts have been answered; `problem` is set where rows of one are missing.

        Nothing is known of rows that came after a problem, so that no prompt is whole from then on.
        """
        whole: list[Ended] = []
        for number, num_prompt_tokens, num_output_tokens in ended:
            prompt = self._by_number.pop(number, None)
            fed = num_prompt_tokens + max(0, num_output_tokens - 1)
            if prompt is None or prompt.gap or prompt.taken < min(prompt.stop, fed):
                self.problem = self.problem or (
                    f"prompt {number}: some of its {fed} positions went by unseen"
                )
                continue
            whole.append((number, num_prompt_tokens, num_output_tokens))
        if self._writer is not None and self.problem is None:
            self._writer.end(whole)
        live = set(map(id, self._by_number.values()))
        self._prompts = {name: each for name, each in self._prompts.items() if id(each) in live}

    def close(self, actions: dict[str, list[int]], *, complete: bool) -> None:
        """Write what is held."""
        if self._writer is None:
            return
        try:
            self._writer.note(actions)
            self._writer.close(complete=complete and self.problem is None)
        except OSError as error:
            self.problem = self.problem or _problem_of(error)

    def _read(
        self, point: HookPoint, name: str, hidden_TD: Tensor, residual_TD: Tensor | None
    ) -> None:
        wanted = self._wanted
        if wanted is None:
            return
        tokens_R = wanted.tokens_R.to(hidden_TD.device)
        rows_RD = hidden_TD[tokens_R].float()
        if residual_TD is not None:
            rows_RD = rows_RD + residual_TD[tokens_R]
        if point.width < point.total:
            rows_RD = tensor_model_parallel_all_gather(rows_RD, dim=-1)
        self._values[name] = rows_RD.to(self._dtype).cpu()


def _problem_of(error: OSError) -> str:
    return f"the rows cannot be written: {error.strerror or error}"
