"""The worker: vLLM's own, plus taps, their buffers, and emissions on each step's output."""

from __future__ import annotations

import logging
from pathlib import Path

from pilothouse.capture.index import CaptureIndex
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.unsupported_flags import refuse_resolved
from pilothouse.engine.vllm.check import check
from pilothouse.engine.vllm.model_runner import uses_v2_runner, worker_base
from pilothouse.engine.vllm.protocols import SchedulerOutput
from pilothouse.engine.vllm.version import of_this_version
from pilothouse.engine.worker.shard_writer import Ended
from pilothouse.engine.worker.tap_manager import TapManager
from pilothouse.errors import EngineError
from pilothouse.telemetry.logs import log_with_vllm

logger = logging.getLogger(__name__)


class GuardedWorker(worker_base()):  # type: ignore[misc]
    """vLLM's worker of this platform with our taps; `worker_cls` of every guarded server."""

    def load_model(self, *args: object, **kwargs: object) -> None:
        """Load, then install taps: before profiling, so that their memory is accounted for.

        Raises:
            UnsupportedError: vLLM's worker is not as it was when it was tested; a setting that is
                refused and that no flag told of.
        """
        log_with_vllm()
        check("worker", "runner_v2" if uses_v2_runner(self.model_runner) else "runner_v1")
        refuse_resolved(self.vllm_config)
        of_this_version().refuse_settings(self.vllm_config)
        super().load_model(*args, **kwargs)
        plan = Plan.from_additional_config(self.vllm_config.additional_config)
        self.pilothouse = TapManager(plan, self.vllm_config, self.model_runner)
        installed = self.pilothouse.num_taps
        # Every worker has one: what is installed is told once, by the API process or the LLM.
        logger.debug("installed %d taps of revision %s", installed, plan.revision)

    def execute_model(self, scheduler_output: SchedulerOutput) -> object:
        """Return one forward pass under the step's plan."""
        self.pilothouse.begin(scheduler_output)
        output = super().execute_model(scheduler_output)
        self.pilothouse.computed()
        return output

    def sample_tokens(self, grammar_output: object) -> object:
        """Return vLLM's sampled tokens with our emissions on the same output."""
        return self.pilothouse.finish(super().sample_tokens(grammar_output), self.model_runner)

    def pilothouse_installed(self) -> dict[str, object]:
        """Answer the readiness call."""
        return self.pilothouse.installed()

    def pilothouse_capture_open(self, index: str, folder: str) -> str | None:
        """Start a capture; return what is wrong, or None."""
        try:
            self.pilothouse.open_capture(CaptureIndex.model_validate_json(index), Path(folder))
        except EngineError as error:
            return str(error)
        return None

    def pilothouse_capture_ended(self, ended: list[Ended]) -> str | None:
        """Note answered prompts of the capture; return what went wrong so far, or None."""
        return self.pilothouse.end_prompts([(each[0], each[1], each[2]) for each in ended])

    def pilothouse_capture_close(self, actions: dict[str, list[int]], complete: bool) -> str | None:
        """End the capture; return what went wrong, or None."""
        return self.pilothouse.close_capture(actions, complete=complete)

    def shutdown(self) -> None:
        """Close a capture that a signal ends in the middle, so that its rows are kept."""
        if hasattr(self, "pilothouse"):
            self.pilothouse.close_capture({}, complete=False)
        super().shutdown()
