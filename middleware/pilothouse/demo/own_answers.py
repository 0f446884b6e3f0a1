"""Collects the served model's greedy answers with a probe's scores, plain and governed.

An answer that was given is kept, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pilothouse.artifacts.catalog import load_catalog
from pilothouse.config import PilothouseConfig
from pilothouse.demo.answers import BATCH, CONTEXT_TOKENS, ENVIRONMENT, WAVE
from pilothouse.demo.result_cache import ResultCache, digest_of_parts
from pilothouse.demo.wheels import digest_of
from pilothouse.errors import EngineError
from pilothouse.progress import Phase

if TYPE_CHECKING:
    from pilothouse.llm import LLM

MAX_TOKENS: Final = 32
"""Tokens of an answer: a sentence or two."""


class OwnAnswer(NamedTuple):
    """The model's answer to a question.

    `value` is what the probe makes of it; None where it has nothing to read, as in an answer of one
    token, which is never fed back. `action` is what was done to the answer.
    """

    question: str
    text: str
    action: str
    value: float | None
    mean_log_probability: float | None


Ask = Callable[[Sequence[str]], list[OwnAnswer]]


class OwnAnswers:
    """An engine with a probe and policies that hold for chats and not for plain completions.

    Args:
        model: the model's folder.
        config: what is loaded; its policies match the endpoint `chat` alone.
        probe: the probe of `config` that is read, under its default readout.
        store: the file of answers, made where it is not there.
    """

    def __init__(self, model: Path, config: PilothouseConfig, probe: str, store: Path) -> None:
        from transformers import AutoTokenizer

        self._model, self._config = model, config
        self._probe = load_catalog(config).probes[probe]
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        governed_by = [each.read_text(encoding="utf-8") for each in config.policies]
        self._plain = (digest_of(model / "model.safetensors"), self._probe.digest)
        self._governed = (*self._plain, *governed_by)
        self._cache = ResultCache(store)
        self._llm: LLM | None = None

    def __enter__(self) -> OwnAnswers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cache.close()

    def plain(self, questions: Sequence[str], phase: Phase, title: str) -> list[OwnAnswer]:
        """Return what the model says to each question under no policy."""
        return self._answers(self._plain, self._generate, questions, phase, title)

    def governed(self, questions: Sequence[str], phase: Phase, title: str) -> list[OwnAnswer]:
        """Return what a client gets under the policies."""
        return self._answers(self._governed, self._chat, questions, phase, title)

    def _answers(
        self, how: Sequence[object], ask: Ask, questions: Sequence[str], phase: Phase, title: str
    ) -> list[OwnAnswer]:
        keys = [digest_of_parts("own", how, each, MAX_TOKENS) for each in questions]
        missing = {
            key: question
            for key, question in zip(keys, questions, strict=True)
            if self._cache.get(key) is None
        }
        advance = phase(title, len(missing) or 1)
        waiting = list(missing.items())
        for first in range(0, len(waiting), WAVE):
            wave = waiting[first : first + WAVE]
            said = ask([question for _, question in wave])
            self._cache.put(dict(zip((key for key, _ in wave), said, strict=True)))
            advance(len(wave))
        return [OwnAnswer(*self._cache.get(key)) for key in keys]

    def _generate(self, questions: Sequence[str]) -> list[OwnAnswer]:
        from vllm import SamplingParams

        readout = f"{self._probe.name}/{self._probe.default_readout}"
        outputs = self._engine().generate(
            [{"prompt_token_ids": self._ids(each)} for each in questions],
            SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS, logprobs=0),
            probes=[self._probe.name],
            use_tqdm=False,
        )
        found = []
        for question, output in zip(questions, outputs, strict=True):
            [choice] = output.outputs
            told, count = _told(choice), len(choice.token_ids)
            value = told["scores"].get(readout)
            mean = choice.cumulative_logprob / count if count else None
            found.append(OwnAnswer(question, choice.text.strip(), told["action"], value, mean))
        return found

    def _chat(self, questions: Sequence[str]) -> list[OwnAnswer]:
        from vllm import SamplingParams

        outputs = self._engine().chat(
            [[{"role": "user", "content": each}] for each in questions],
            SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS),
            scores="none",
            use_tqdm=False,
        )
        return [
            OwnAnswer(question, choice.text.strip(), _told(choice)["action"], None, None)
            for question, output in zip(questions, outputs, strict=True)
            for choice in output.outputs
        ]

    def _ids(self, question: str) -> list[int]:
        conversation = [{"role": "user", "content": question}]
        ids = self._tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, return_dict=False
        )
        return list(ids)

    def _engine(self) -> LLM:
        if self._llm is None:
            for name, value in ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            from pilothouse.llm import LLM  # vLLM takes seconds to import

            self._llm = LLM(
                str(self._model),
                pilothouse_config=self._config,
                dtype="float32",
                enforce_eager=True,
                max_model_len=CONTEXT_TOKENS,
                max_num_seqs=BATCH,
            )
        return self._llm


def _told(choice: Any) -> dict[str, Any]:
    told: dict[str, Any] = choice.pilothouse
    if told["action"] == "refused":
        raise EngineError(f"the engine turned a question away: {told.get('error')}")
    return told
