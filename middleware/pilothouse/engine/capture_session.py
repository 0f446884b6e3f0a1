"""A capture seen from the process that asked for it: opened, run wave by wave, closed.

Rows never come here: workers write them, and are told which prompts were answered.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from vllm import SamplingParams

from pilothouse import __version__
from pilothouse.capture.index import CapturedModel, CaptureIndex
from pilothouse.capture.order import CaptureOrder
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.vllm.protocols import Llm, LLMEngine, RequestOutput
from pilothouse.engine.vllm.rpc import ask_workers
from pilothouse.engine.vllm.version import vllm_version
from pilothouse.engine.worker.activation_recorder import PROMPT_KEY
from pilothouse.engine.worker.shard_writer import Ended
from pilothouse.errors import EngineError

WAVE = 256
"""Prompts that are with the engine at a time."""
REPORT_S = 1.0
"""How long an answered prompt may be unknown to the workers."""
CUT_SHORT = ("abort", "error")


class CaptureSession:
    """A context; leaving it closes the capture, complete if nothing was raised.

    Args:
        llm: vLLM's `LLM`.
        advance: called with how many more prompts are done.

    Raises:
        EngineError: on entry, a place that cannot be read; later, rows that cannot be written.
    """

    def __init__(
        self, llm: Llm, index: CaptureIndex, folder: Path, advance: Callable[[int], None]
    ) -> None:
        self._llm, self._index, self._folder = llm, index, folder
        self._advance = advance
        self._interrupt = Interrupt()
        self._ended: list[Ended] = []
        self._reported_at = 0.0
        self._actions: dict[str, list[int]] = {}

    def __enter__(self) -> CaptureSession:
        try:
            self._call("open", self._index.model_dump_json(), str(self._folder))
        except EngineError:
            self._call("close", {}, False)  # of the workers that had no problem
            raise
        self._interrupt.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *about: Any) -> None:
        self._interrupt.__exit__(kind, *about)
        if kind is None:
            self._call("close", self._actions, True)
            return
        # An engine that has died wrote its rows on its way out; what ended us matters more.
        with suppress(Exception):
            self._call("close", self._actions, False)

    def wait(self, numbers: Mapping[str, int]) -> list[RequestOutput]:
        """Step until every request is answered; vLLM's outputs in the order of `numbers`.

        Args:
            numbers: vLLM's request id -> number of its prompt.

        Raises:
            KeyboardInterrupt: somebody pressed Ctrl-C; what was answered is kept.
            EngineError: rows are missing or cannot be written.
        """
        engine = self._llm.llm_engine
        # Outputs carry the id without the tail that makes it unique.
        names = {each.rsplit("-", 1)[0]: number for each, number in numbers.items()}
        answered: dict[str, RequestOutput] = {}
        try:
            while engine.has_unfinished_requests():
                for output in self._step(engine):
                    if output.finished:
                        answered[output.request_id] = output
                        self._note(names[output.request_id], output)
                self._report()
            self._report(at_once=True)
        except BaseException as error:
            engine.abort_request(list(numbers), internal=True)
            if self._interrupt.asked and isinstance(error, EngineError):
                raise KeyboardInterrupt from error
            raise
        return [answered[name] for name in names]

    def acted(self, action: str, number: int) -> None:
        """A policy did something to a prompt's request."""
        self._actions.setdefault(action, []).append(number)

    def _step(self, engine: LLMEngine) -> Sequence[RequestOutput]:
        try:
            outputs = engine.step()
        except Exception as error:
            if self._interrupt.asked:
                # Ctrl-C at a terminal reaches the engine's own process too, and ends it.
                raise KeyboardInterrupt from error
            raise
        if self._interrupt.asked:
            raise KeyboardInterrupt
        return outputs

    def _note(self, number: int, output: RequestOutput) -> None:
        completion = output.outputs[0]
        if completion.finish_reason not in CUT_SHORT:
            self._ended.append(
                (number, len(output.prompt_token_ids or ()), len(completion.token_ids))
            )
            self._advance(1)

    def _report(self, *, at_once: bool = False) -> None:
        if self._ended and (at_once or time.monotonic() - self._reported_at > REPORT_S):
            ended, self._ended = self._ended, []
            self._reported_at = time.monotonic()
            self._call("ended", ended)

    def _call(self, what: str, *args: object) -> None:
        answers = ask_workers(self._llm, f"pilothouse_capture_{what}", args)
        problems = sorted({each for each in answers if each is not None})
        if problems:
            raise EngineError(f"capture in {self._folder}: {'; '.join(problems)}")


def capture_index(plan: Plan, order: CaptureOrder, dtype: object) -> CaptureIndex:
    """Make the index of a capture that has not begun; the model computes in `dtype`."""
    facts = plan.body.model
    return CaptureIndex(
        versions={
            "pilothouse": __version__,
            "vllm": vllm_version(),
            "torch": version("torch"),
            "transformers": version("transformers"),
        },
        model=CapturedModel(
            model_id=facts.model_id,
            num_layers=facts.num_layers,
            d_model=facts.d_model,
            dtype=str(dtype).removeprefix("torch."),
        ),
        revision=plan.revision,
        config_digest=plan.body.config_digest,
        order=order,
    )


def capture_params(number: int, max_tokens: int) -> SamplingParams:
    """Greedy, and every position is fed: one that a prefix hit skips would have no row."""
    return SamplingParams(
        temperature=0.0,
        max_tokens=max_tokens,
        skip_reading_prefix_cache=True,
        extra_args={PROMPT_KEY: number},
    )


class Interrupt:
    """While entered, the first SIGINT sets `asked`; the next one raises `KeyboardInterrupt`.

    Signals are the main thread's: entered in another thread it changes nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Callable[[int, FrameType | None], Any] | int | signal.Handlers | None = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
