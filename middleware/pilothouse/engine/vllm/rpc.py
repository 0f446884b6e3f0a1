"""Calls between processes, over vLLM's own: to the scheduler and to an offline engine's workers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from pilothouse.engine.vllm import protocols as shapes
from pilothouse.engine.vllm.protocols import AsyncLLM, Llm, LLMEngine
from pilothouse.engine.vllm.version import of_this_version
from pilothouse.errors import EngineError

CALL = "pilothouse_control"
ANSWER_SECONDS = 60.0
LOOK_SECONDS = 0.2
"""How often a silent engine is looked at."""


def offer_control() -> None:
    """Have this process's engine core pass orders on to its scheduler."""
    from vllm.v1.engine.core import EngineCore

    def pilothouse_control(
        self: shapes.EngineCore, order: str, arguments: Sequence[object]
    ) -> object:
        return self.scheduler.control(order, arguments)

    setattr(EngineCore, CALL, pilothouse_control)


async def ask_engines(engine_client: AsyncLLM, order: str, *arguments: object) -> list[Any]:
    """Return every engine's answer to an order.

    Raises:
        EngineError: one of them did not answer.
    """
    call = of_this_version().call_every_engine
    try:
        answers: list[Any] = await call(engine_client.engine_core, CALL, (order, list(arguments)))
    except Exception as error:
        raise EngineError(f"the engine did not answer {order!r}: {error}") from error
    return answers


def ask_engine(llm_engine: LLMEngine, order: str, *arguments: object) -> Any:
    """Return the answer of an offline engine, in this process or its own.

    Raises:
        EngineError: it did not answer.
    """
    client = llm_engine.engine_core
    try:
        if hasattr(client, "call_utility"):
            return client.call_utility(CALL, order, list(arguments))
        answer = getattr(client.engine_core, CALL)(order, list(arguments))
        return answer.result(ANSWER_SECONDS) if isinstance(answer, Future) else answer
    except Exception as error:
        raise EngineError(f"the engine did not answer {order!r}: {error}") from error


def client_index(engine_client: AsyncLLM) -> int:
    """Return which of the API processes this is."""
    return int(engine_client.engine_core.client_index)


def ask_workers(llm: Llm, method: str, arguments: Sequence[object]) -> list[Any]:
    """Return every worker's answer.

    vLLM waits for an answer for ever, also that of an engine that has died meanwhile.

    Raises:
        EngineError: the engine has died.
    """
    resources = getattr(llm.llm_engine.engine_core, "resources", None)
    if resources is None:
        return list(llm.collective_rpc(method, args=tuple(arguments)))
    answer: Future[list[Any]] = Future()

    def ask() -> None:
        try:
            answer.set_result(llm.collective_rpc(method, args=tuple(arguments)))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name=f"ask {method}", daemon=True).start()
    while True:
        try:
            return answer.result(LOOK_SECONDS)
        except TimeoutError:
            if resources.engine_dead and not answer.done():
                raise EngineError(f"the engine has died before it answered {method!r}") from None


def shut_down(llm: Llm) -> None:
    """End an offline engine and its processes."""
    llm.llm_engine.engine_core.shutdown()
