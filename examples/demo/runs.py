"""Runs of records through the served engine: what was said, and the stream while it was.

Shape suffixes: L captured layers, P positions fed, N positions of all runs, D hidden size,
T tokens of one run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from transformers import AutoConfig

from check import Verdict, check
from freeze import changes
from pilothouse.engine.plan.spec import ModelFacts
from pilothouse.probes.dataset import Example
from pilothouse.types import FloatArray
from record import Record
from served import Served

MODEL = Path(__file__).with_name("model")
MODEL_ID = "pilothouse-demo"
MAX_TOKENS = 48
BATCH = 256
"""Records whose streams are in memory at a time."""


@dataclass(frozen=True)
class Captured:
    """The tokens of one run, and the stream at every position that was fed.

    `stream_LPD` is float32. The last sampled token is never fed, so P is one less than the number
    of tokens. `logprobs` are those of the sampled tokens.
    """

    prompt_token_ids: list[int]
    output_token_ids: list[int]
    logprobs: list[float]
    stream_LPD: FloatArray

    @property
    def num_prompt_tokens(self) -> int:
        """Positions below this are the prompt's."""
        return len(self.prompt_token_ids)


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
    """Asks the engine, then captures what was asked and said, in the demo's chat template."""

    def __init__(self, layers: tuple[int, ...], model: Path = MODEL) -> None:
        self.layers = layers
        self._served = Served(model)

    def runs(
        self, records: Iterable[Record], *, max_tokens: int = MAX_TOKENS, what: str = "capturing"
    ) -> Iterator[Run]:
        """Yield one run for each record, in order."""
        left = iter(records)
        while batch := list(islice(left, BATCH)):
            print(f"{what}: {len(batch)} records", flush=True)
            yield from self._batch(batch, max_tokens)

    def _batch(self, records: list[Record], max_tokens: int) -> Iterator[Run]:
        served = self._served
        answers = served.answers(records, max_tokens=max_tokens)
        prompts = [served.ids(record) for record in records]
        fed = [
            [*prompt, *answer.token_ids[:-1]]
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        with TemporaryDirectory() as folder:
            reader = served.llm.capture(fed, self.layers, out=folder, progress=False)
            # Rows of a layer come by prompt and position.
            stream_LND = np.stack([reader.layer(layer)[0] for layer in self.layers])
        ends = np.cumsum([len(each) for each in fed])
        streams = np.split(stream_LND, ends[:-1], axis=1)
        for record, prompt, answer, stream_LPD in zip(
            records, prompts, answers, streams, strict=True
        ):
            said = list(answer.token_ids)
            logprobs = [
                entry[token].logprob for token, entry in zip(said, answer.logprobs, strict=True)
            ]
            reply = served.tokenizer.decode(said, skip_special_tokens=True)
            captured = Captured(prompt, said, logprobs, stream_LPD)
            yield Run(record, reply, check(record, reply), captured)
