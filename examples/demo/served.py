"""The demo's model in an engine of this machine, asked with records through `pilothouse.LLM`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from vllm import SamplingParams

from check import Verdict, check
from pilothouse import LLM
from pilothouse.config import PilothouseConfig
from pilothouse.engine.vllm.rpc import shut_down
from pilothouse.term import SteerTerm
from record import Record


class Served:
    """A context with an engine under a configuration; None is the model that nothing governs."""

    def __init__(self, model: Path, config: PilothouseConfig | None = None) -> None:
        self.llm = LLM(
            str(model),
            pilothouse_config=config,
            dtype="float32",
            enforce_eager=True,
            enable_prefix_caching=False,
            max_model_len=512,
        )
        self.tokenizer: Any = self.llm.get_tokenizer()

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        shut_down(self.llm)

    def ids(self, record: Record) -> list[int]:
        """Return a record's prompt as the model reads it."""
        prompt: list[int] = self.tokenizer.apply_chat_template(
            record.messages(), add_generation_prompt=True, return_dict=False
        )
        return prompt

    def answers(
        self,
        records: Sequence[Record],
        *,
        max_tokens: int,
        steer: Sequence[SteerTerm] = (),
    ) -> list[Any]:
        """Return vLLM's greedy completion for each record, with the sampled tokens' logprobs."""
        prompts = [{"prompt_token_ids": self.ids(record)} for record in records]
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, logprobs=0)
        outputs = self.llm.generate(prompts, params, steer=steer, use_tqdm=False)
        return [output.outputs[0] for output in outputs]

    def verdicts(
        self, records: Sequence[Record], *, max_tokens: int, steer: Sequence[SteerTerm] = ()
    ) -> list[Verdict]:
        """Return the checker's verdict on each record's answer."""
        answers = self.answers(records, max_tokens=max_tokens, steer=steer)
        return [
            check(record, self.tokenizer.decode(answer.token_ids, skip_special_tokens=True))
            for record, answer in zip(records, answers, strict=True)
        ]
