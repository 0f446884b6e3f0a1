"""Questions from an offline engine's owner to its workers, over vLLM's own utility calls."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from pilothouse.errors import EngineError

LOOK_SECONDS = 0.2
"""How often a silent engine is looked at."""


def ask_workers(llm: Any, method: str, arguments: Sequence[Any]) -> list[Any]:
    """Every worker's answer.

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
