"""A step's emissions, copied from the static score buffer before the next step overwrites it.

Shape suffixes: N most tokens, T tokens of the step, E read columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pilothouse.engine.scheduler.messages import Emissions
from pilothouse.engine.vllm.model_runner import copy_stream
from pilothouse.engine.vllm.runner_protocols import ModelRunner
from pilothouse.types import IntArray


class Readback:
    """Remembers who is in the step; `take` starts the copy to the host."""

    def __init__(self, scores_NE: Tensor) -> None:
        self._scores_NE = scores_NE
        self._members: tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...]] = ((), (), ())

    def begin(self, request_ids: Sequence[str], starts_B: IntArray, counts_B: IntArray) -> None:
        """Remember the step's requests, first positions and token counts, in batch order."""
        self._members = (tuple(request_ids), tuple(starts_B.tolist()), tuple(counts_B.tolist()))

    def take(self, runner: ModelRunner) -> Callable[[], Emissions]:
        """Start copying this step's rows; the result waits for the copy.

        The snapshot is made on the main stream, in order with the forward pass that wrote it and
        the next that will overwrite it; the copy to the host runs beside the next forward.
        """
        request_ids, starts, counts = self._members
        snapshot_TE = self._scores_NE[: sum(counts)].clone()
        if snapshot_TE.device.type == "cpu":
            return lambda: Emissions(request_ids, starts, counts, snapshot_TE.numpy())
        stream = copy_stream(runner)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            host_TE = snapshot_TE.to("cpu", non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(stream)
        snapshot_TE.record_stream(stream)

        def arrived() -> Emissions:
            done.synchronize()
            return Emissions(request_ids, starts, counts, host_TE.numpy())

        return arrived
