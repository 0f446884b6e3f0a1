"""A guarded engine in this process: the same worker and scheduler as a server's, without HTTP."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pilothouse.engine.launch import SCHEDULER, WORKER, guard_environment
from pilothouse.engine.plan.plan import Plan
from pilothouse.record import Record
from pilothouse.signed_request import SIGNED_REQUEST_KEY, SignedRequest, seal, signing_key


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one prompt; `record` is the last one about it."""

    request_id: str
    prompt_token_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str | None
    record: Record


class OfflineEngine:
    """vLLM's `LLM` under a plan; every request carries a seal of this process.

    Args:
        model: folder or name of the model.
        plan: what is loaded.
        settings: passed to vLLM's `LLM` over eager float32 defaults.
    """

    def __init__(self, model: str, plan: Plan, **settings: Any) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        guard_environment()
        from vllm import LLM

        from pilothouse.engine.vllm import output_processor

        self.plan = plan
        self._key = signing_key()
        self._records: dict[str, Record] = {}
        output_processor.install()
        self._unsubscribe = output_processor.subscribe(self._keep)
        defaults: dict[str, Any] = {
            "dtype": "float32",
            "enforce_eager": True,
            "enable_prefix_caching": False,
            "distributed_executor_backend": "uni",
        }
        self.llm = LLM(
            model,
            worker_cls=WORKER,
            scheduler_cls=SCHEDULER,
            additional_config=plan.to_additional_config(),
            **(defaults | settings),
        )

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.llm.get_tokenizer()

    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        requests: Sequence[SignedRequest],
        *,
        max_tokens: int,
    ) -> list[Answer]:
        """Greedy answers in order. `decision_id` and `revision` of the requests are filled in."""
        from vllm import SamplingParams

        inputs: Any = [{"prompt_token_ids": list(each)} for each in prompts]
        params = []
        for index, request in enumerate(requests):
            filled = request.model_copy(
                update={"decision_id": str(index), "revision": self.plan.revision}
            )
            extra = {SIGNED_REQUEST_KEY: seal(filled, self._key)}
            params.append(
                SamplingParams(temperature=0.0, max_tokens=max_tokens, logprobs=0, extra_args=extra)
            )
        self._records.clear()
        outputs = self.llm.generate(inputs, params, use_tqdm=False)
        return [
            self._answer(output, self._records[str(index)]) for index, output in enumerate(outputs)
        ]

    def close(self) -> None:
        """Stop picking records up."""
        self._unsubscribe()

    def _keep(self, record: Record) -> None:
        self._records[record.decision_id] = record

    @staticmethod
    def _answer(output: Any, record: Record) -> Answer:
        sampled = output.outputs[0]
        logprobs = sampled.logprobs or ()
        return Answer(
            request_id=output.request_id,
            prompt_token_ids=list(output.prompt_token_ids or ()),
            token_ids=list(sampled.token_ids),
            logprobs=[
                entry[token].logprob
                for token, entry in zip(sampled.token_ids, logprobs, strict=True)
            ],
            finish_reason=sampled.finish_reason,
            record=record,
        )
