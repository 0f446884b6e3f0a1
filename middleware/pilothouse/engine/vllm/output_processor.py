"""Picks records up in each API process, before vLLM makes its own outputs of the same tokens."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from pilothouse.engine.vllm.outputs import complete_prompt_logprobs
from pilothouse.engine.vllm.protocols import EngineCoreOutput, OutputProcessor
from pilothouse.log_text import log_lines, log_text
from pilothouse.record import PROGRAMS_KEY, RECORD_KEY, REVISION_KEY, Record

logger = logging.getLogger(__name__)

Subscriber = Callable[[Record], None]

_subscribers: list[Subscriber] = []
_followers: list[Callable[[str], None]] = []
_program_watchers: list[Callable[[int], None]] = []


def subscribe(call: Subscriber) -> Callable[[], None]:
    """Have `call(record)` run for every record of this process; returns what ends it.

    An exception that it raises is logged, and ends nothing.
    """
    _subscribers.append(call)
    return lambda: _subscribers.remove(call)


def follow(call: Callable[[str], None]) -> Callable[[], None]:
    """Have `call(revision)` run when the scheduler has a newer plan; returns what ends it."""
    _followers.append(call)
    return lambda: _followers.remove(call)


def watch_programs(call: Callable[[int], None]) -> Callable[[], None]:
    """Have `call(count)` run when the number of programs in use changes; returns what ends it."""
    _program_watchers.append(call)
    return lambda: _program_watchers.remove(call)


def install() -> None:
    """Wrap vLLM's output processor, once per process."""
    from vllm.v1.engine import output_processor

    process = output_processor.OutputProcessor.process_outputs
    if getattr(process, "_pilothouse", False):
        return

    @wraps(process)  # the check at start looks at vLLM's own parameters
    def process_outputs(
        self: OutputProcessor,
        engine_core_outputs: Sequence[EngineCoreOutput],
        *args: object,
        **kwargs: object,
    ) -> object:
        for output in engine_core_outputs:
            if output.kv_transfer_params:
                _take(self, output, output.kv_transfer_params)
        return process(self, engine_core_outputs, *args, **kwargs)

    process_outputs._pilothouse = True  # type: ignore[attr-defined]
    output_processor.OutputProcessor.process_outputs = process_outputs


def _take(processor: OutputProcessor, output: EngineCoreOutput, carried: dict[str, Any]) -> None:
    revision = carried.pop(REVISION_KEY, None)
    if revision is not None:
        for tell in _followers:
            tell(revision)
    programs = carried.pop(PROGRAMS_KEY, None)
    if programs is not None:
        for count in _program_watchers:
            count(programs)
    wire = carried.pop(RECORD_KEY, None)
    if not carried:
        output.kv_transfer_params = None
    if wire is None:
        return
    record = Record.from_wire(wire)
    state = processor.request_states.get(output.request_id)
    if state is not None:
        record.choice = (_prompt_index(state.external_req_id), state.request_index)
        record.num_prompt_tokens = state.prompt_len
        complete_prompt_logprobs(state, output)
    for call in _subscribers:
        try:
            call(record)
        except Exception:  # it runs inside vLLM's output loop: this would end every request
            logger.error(
                "a record of decision %s could not be taken in:\n%s",
                log_text(record.decision_id),
                log_lines(traceback.format_exc()),
            )


def _prompt_index(external_request_id: str) -> int:
    """Return the prompt's place in a completions request, which vLLM appends as `-<index>`."""
    head, _, tail = external_request_id.rpartition("-")
    return int(tail) if head.startswith("cmpl-") and tail.isdigit() else 0
