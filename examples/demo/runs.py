"""Runs of records through the served engine: what was said, and the stream while it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress
from transformers import AutoConfig

from check import Verdict, check
from freeze import changes
from pilothouse.engine.capture import Captured, CaptureEngine
from pilothouse.engine.plan.spec import ModelFacts
from pilothouse.probes.dataset import Example
from record import Record

MODEL = Path(__file__).with_name("model")
MODEL_ID = "pilothouse-demo"
MAX_TOKENS = 48


@dataclass(frozen=True)
class Run:
    """A record, the model's reply to it, the checker's verdict, and the stream."""

    record: Record
    reply: str
    verdict: Verdict
    captured: Captured

    @property
    def group(self) -> str:
        """What must not be split between fitting and testing: the deed, or the name."""
        if self.record.deed is not None:
            return " ".join(self.record.deed)
        return self.record.name or "nobody"

    def example(self, label: bool) -> Example:
        """The run as a probe's example."""
        logprobs = self.captured.logprobs
        return Example(
            hidden_TLD=np.ascontiguousarray(self.captured.stream_LPD.transpose(1, 0, 2)),
            prompt_tokens=self.captured.num_prompt_tokens,
            label=label,
            group=self.group,
            family=self.record.family,
            text=self.record.prompt,
            mean_log_probability=float(np.mean(logprobs)) if logprobs else float("nan"),
        )


def model_facts(model: Path = MODEL) -> ModelFacts:
    """The demo model's size, under the name its artefacts carry."""
    config = AutoConfig.from_pretrained(model)
    return ModelFacts(
        model_id=MODEL_ID, num_layers=config.num_hidden_layers, d_model=config.hidden_size
    )


def refuse_changed() -> None:
    """Stop unless world and model are the frozen ones: artefacts are fitted to one world."""
    problems = changes()
    if problems:
        raise SystemExit("the world or the model is not the frozen one:\n" + "\n".join(problems))


class Runner:
    """The capture engine, speaking the demo's chat template."""

    def __init__(self, layers: tuple[int, ...], model: Path = MODEL) -> None:
        self.layers = layers
        self._engine = CaptureEngine(str(model), model_facts(model), layers, max_model_len=512)

    def ids(self, record: Record) -> list[int]:
        """A record's prompt as the model reads it."""
        prompt: list[int] = self._engine.tokenizer.apply_chat_template(
            record.messages(), add_generation_prompt=True, return_dict=False
        )
        return prompt

    def runs(
        self, records: Iterable[Record], *, max_tokens: int = MAX_TOKENS, what: str = "capturing"
    ) -> Iterator[Run]:
        """One run for each record, in order."""
        kept = list(records)
        tokenizer = self._engine.tokenizer
        prompts = [self.ids(record) for record in kept]
        with Progress() as progress:
            task = progress.add_task(what, total=len(kept))
            captured = self._engine.run(
                prompts,
                max_tokens=max_tokens,
                progress=lambda count: progress.advance(task, count),
            )
            for record, each in zip(kept, captured, strict=True):
                reply = tokenizer.decode(each.output_token_ids, skip_special_tokens=True)
                yield Run(record, reply, check(record, reply), each)
