"""The served model's own greedy answers, with what a probe reads in them, plain and governed.

An answer that was given is kept, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple

from pilothouse.config import PilothouseConfig
from pilothouse.demo.answers import BATCH, CONTEXT_TOKENS, ENVIRONMENT, WAVE
from pilothouse.demo.kept import Kept, digest_of_parts
from pilothouse.demo.wheels import digest_of
from pilothouse.errors import EngineError
from pilothouse.model.probe import load_probe
from pilothouse.progress import Phase

if TYPE_CHECKING:
    from pilothouse.llm import LLM

MAX_TOKENS: Final = 32
"""Of an answer: a sentence or two."""


class OwnAnswer(NamedTuple):
    """What the model said to a question.

    `value` is what the probe makes of the answer where it ends; None where no token of it was fed
    back, for an answer of one token has nothing to read. `action` is what policies did to it.
    """

    question: str
    text: str
    action: str
    value: float | None
    mean_log_probability: float | None


class OwnAnswers:
    """An engine with one probe, whose policies hold for chats and not for plain completions.

    Args:
        model: the model's folder; its name is what manifests call the model.
        probe: the folder of the probe that is read, under its default readout.
        policies: files of policies that match the endpoint `chat` alone.
        store: the file of answers, made where it is not there.
    """

    def __init__(self, model: Path, probe: Path, policies: Sequence[Path], store: Path) -> None:
        from transformers import AutoTokenizer

        self._model, self._folder = model, probe
        self._probe = load_probe(probe.name, probe)
        self._policies = tuple(policies)
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        governed_by = [each.read_text(encoding="utf-8") for each in policies]
        self._plain = digest_of(model / "model.safetensors"), self._probe.digest
        self._governed = (*self._plain, *governed_by)
        self._kept = Kept(store)
        self._llm: LLM | None = None

    def __enter__(self) -> OwnAnswers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._kept.close()

    def plain(self, questions: Sequence[str], phase: Phase, title: str) -> list[OwnAnswer]:
        """Return what the model says to each question under no policy."""
        return self._answers(questions, phase, title, governed=False)

    def governed(self, questions: Sequence[str], phase: Phase, title: str) -> list[OwnAnswer]:
        """Return what a client gets under the policies."""
        return self._answers(questions, phase, title, governed=True)

    def _answers(
        self, questions: Sequence[str], phase: Phase, title: str, *, governed: bool
    ) -> list[OwnAnswer]:
        settled = self._governed if governed else self._plain
        keys = [digest_of_parts("own", settled, each, MAX_TOKENS, governed) for each in questions]
        missing = {
            key: question
            for key, question in zip(keys, questions, strict=True)
            if self._kept.get(key) is None
        }
        advance = phase(title, len(missing) or 1)
        waiting = list(missing.items())
        for first in range(0, len(waiting), WAVE):
            wave = waiting[first : first + WAVE]
            asked = [question for _, question in wave]
            said = self._chat(asked) if governed else self._generate(asked)
            self._kept.put(dict(zip((key for key, _ in wave), said, strict=True)))
            advance(len(wave))
        return [OwnAnswer(*self._kept.get(key)) for key in keys]

    def _generate(self, questions: Sequence[str]) -> list[OwnAnswer]:
        from vllm import SamplingParams

        readout = f"{self._probe.name}/{self._probe.default_readout}"
        conversations = [
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": each}], add_generation_prompt=True, return_dict=False
            )
            for each in questions
        ]
        outputs = self._engine().generate(
            [{"prompt_token_ids": each} for each in conversations],
            SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS, logprobs=0),
            probes=[self._probe.name],
            use_tqdm=False,
        )
        found = []
        for question, output in zip(questions, outputs, strict=True):
            [choice] = output.outputs
            told = _told(choice)
            count = len(choice.token_ids)
            found.append(
                OwnAnswer(
                    question, choice.text.strip(), told["action"],
                    told["scores"].get(readout) if count > 1 else None,
                    choice.cumulative_logprob / count if count else None,
                )
            )  # fmt: skip
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

    def _engine(self) -> LLM:
        if self._llm is None:
            for name, value in ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            from pilothouse.llm import LLM  # vLLM takes seconds to import

            config = PilothouseConfig.model_validate({
                "version": 1, "model_id": self._model.name,
                "probes": {self._probe.name: {"path": self._folder}},
                "policies": self._policies,
            })  # fmt: skip
            self._llm = LLM(
                str(self._model), pilothouse_config=config, dtype="float32", enforce_eager=True,
                max_model_len=CONTEXT_TOKENS, max_num_seqs=BATCH,
            )  # fmt: skip
        return self._llm


def _told(choice: object) -> dict[str, object]:
    told: dict[str, object] = choice.pilothouse  # type: ignore[attr-defined]
    if told["action"] == "refused":
        raise EngineError(f"the engine turned a question away: {told.get('error')}")
    return told
