"""A step's output on its way from the worker to the scheduler, with an attribute of ours on it."""

from __future__ import annotations

from collections.abc import Callable

from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput


class AttachedOutput(AsyncModelRunnerOutput):
    """vLLM's output of a step, with an attribute added once both are on the host."""

    def __init__(
        self, inner: AsyncModelRunnerOutput, attribute: str, value: Callable[[], object]
    ) -> None:
        self._inner = inner
        self._attribute = attribute
        self._value = value

    def get_output(self) -> ModelRunnerOutput:
        """Wait for vLLM's output, then attach ours. Runs in vLLM's output thread."""
        output = self._inner.get_output()
        setattr(output, self._attribute, self._value())
        return output

    def get_kv_connector_output(self) -> object:
        """Hand on what vLLM (from 0.33 on) asks for where `get_output` has failed."""
        # vLLM 0.32 has no such method, and does not ask for it.
        return self._inner.get_kv_connector_output()


def attach(output: object, attribute: str, value: Callable[[], object]) -> object:
    """Put an attribute on a step's output, now or when it has arrived on the host."""
    if isinstance(output, AsyncModelRunnerOutput):
        return AttachedOutput(output, attribute, value)
    setattr(output, attribute, value())
    return output
