"""Orders from API processes to the scheduler, over vLLM's own utility calls."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from pilothouse.errors import EngineError

CALL = "pilothouse_control"
ANSWER_SECONDS = 60.0


def offer_control() -> None:
    """Have this process's engine core pass orders on to its scheduler."""
    from vllm.v1.engine.core import EngineCore

    def pilothouse_control(self: Any, order: str, arguments: Sequence[Any]) -> Any:
        return self.scheduler.control(order, arguments)

    setattr(EngineCore, CALL, pilothouse_control)


async def ask_engines(engine_client: Any, order: str, *arguments: Any) -> list[Any]:
    """Every engine's answer to an order.

    Raises:
        EngineError: one of them did not answer.
    """
    call = engine_client.engine_core.call_utility_all_async
    try:
        answers: list[Any] = await call(CALL, order, list(arguments))
    except Exception as error:
        raise EngineError(f"the engine did not answer {order!r}: {error}") from error
    return answers


def ask_engine(llm_engine: Any, order: str, *arguments: Any) -> Any:
    """The answer of an offline engine, in this process or its own.

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


def client_index(engine_client: Any) -> int:
    """Which of the API processes this is."""
    return int(engine_client.engine_core.client_index)
