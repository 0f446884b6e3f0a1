"""Reads texts with the served engine: the stream at the last token, and log-probabilities.

What was read is kept in the cache folder, part by part, and read from there the next time; an
interrupted part goes on where it stopped.

Shape suffixes: N texts, L layers, D width of the stream, T tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.capture.index import INDEX_FILE
from pilothouse.capture.reader import CaptureReader
from pilothouse.config import PilothouseConfig, Taps
from pilothouse.demo.texts.text_set import Text, in_form
from pilothouse.probes.report import Form
from pilothouse.progress import progress
from pilothouse.training.scored_text import ScoredText, said_of
from pilothouse.types import FloatArray

if TYPE_CHECKING:
    from pilothouse.llm import LLM

ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TRANSFORMERS_VERBOSITY": "error",
}
MAX_TOKENS = 320
"""Longer conversations are left out and counted: attention over them costs most."""
CONTEXT_TOKENS = 512
WAVE = 64
"""Prompts given to the engine at a time."""
ASKED_OF_A_TOOL = "Look at what the tool returned and tell me what it says."


class Prompt(NamedTuple):
    """A conversation in token ids, and the span of it that is the text's own."""

    ids: tuple[int, ...]
    start: int
    stop: int

    @property
    def scored(self) -> ScoredText:
        """The ids up to the span's end, of which the span is scored."""
        return ScoredText(self.ids[: self.stop], self.start)


class Activations:
    """Reads texts with one model, at some layers of `resid_post`.

    Args:
        model: its folder; its name is what manifests call the model.
        layers: those to keep.
        cache: where what was read is kept.
    """

    def __init__(self, model: Path, layers: Sequence[int], cache: Path) -> None:
        from transformers import AutoTokenizer

        self.layers = tuple(layers)
        self.model_id = model.name
        self._model = model
        self._cache = cache
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self._llm: LLM | None = None
        self._head, self._tail = self._frame()

    def prompt(self, text: Text, form: Form) -> Prompt:
        """Return the conversation as the server would make it, up to where the text is judged.

        That is where the assistant's turn opens, or the last token of an answer.
        """
        said = in_form(text.text, form)
        if text.question is not None:
            asked = self._ids([{"role": "user", "content": in_form(text.question, form)}])
            answer = self._tokenizer(said, add_special_tokens=False)["input_ids"]
            return Prompt((*asked, *answer), len(asked), len(asked) + len(answer))
        if text.from_tool:
            ids = self._ids(
                [
                    {"role": "user", "content": ASKED_OF_A_TOOL},
                    {"role": "tool", "content": said},
                ]
            )
            start = len(self._ids([{"role": "user", "content": ASKED_OF_A_TOOL}], opened=False))
            return Prompt(ids, start, len(ids) - self._tail)
        ids = self._ids([{"role": "user", "content": said}])
        return Prompt(ids, self._head, len(ids) - self._tail)

    def hidden(self, name: str, prompts: Sequence[Prompt]) -> FloatArray:
        """hidden_NLD at each prompt's last token."""
        ids = [list(each.ids) for each in prompts]
        folder = self._cache / f"{name}-{_digest((self.model_id, self.layers, ids))}"
        if not (folder / INDEX_FILE).is_file() or not CaptureReader(folder).complete:
            self._engine().capture(ids, self.layers, positions="last_prompt", out=folder)
        reader = CaptureReader(folder)
        return np.stack([reader.layer(layer)[0] for layer in self.layers], axis=1)

    def log_probabilities(self, name: str, prompts: Sequence[Prompt]) -> NDArray[np.float64]:
        """means_N of the log-probabilities of each text's own tokens."""
        ids = [list(each.ids) for each in prompts]
        place = self._cache / f"{name}-{_digest((self.model_id, ids))}.npy"
        if place.is_file():
            kept: NDArray[np.float64] = np.load(place)
            return kept
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,
            flat_logprobs=True,
        )
        llm, means = self._engine(), []
        with progress(stays=False) as phase:
            advance = phase(f"log-probabilities of {name}", len(prompts))
            for first in range(0, len(prompts), WAVE):
                wave = prompts[first : first + WAVE]
                asked = [{"prompt_token_ids": list(each.ids)} for each in wave]
                outputs = llm.generate(asked, params, scores="none", use_tqdm=False)
                means += [
                    said_of(
                        ScoredText(each.ids[: each.stop], each.start), output.prompt_logprobs
                    ).mean
                    for each, output in zip(wave, outputs, strict=True)
                ]
                advance(len(wave))
        means_N = np.array(means)
        place.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=place.parent, suffix=".npy", delete=False) as file:
            np.save(file, means_N)
        Path(file.name).replace(place)
        return means_N

    def _engine(self) -> LLM:
        if self._llm is None:
            for name, value in ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            from pilothouse.llm import LLM  # vLLM takes seconds to import

            taps = Taps(resid_post=self.layers, operators=("add",))
            self._llm = LLM(
                str(self._model),
                pilothouse_config=PilothouseConfig(version=1, model_id=self.model_id, taps=taps),
                dtype="float32",
                enforce_eager=True,
                max_model_len=CONTEXT_TOKENS,
            )
        return self._llm

    def _ids(self, messages: list[dict[str, str]], *, opened: bool = True) -> tuple[int, ...]:
        found = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=opened, return_dict=False
        )
        return tuple(found)

    def _frame(self) -> tuple[int, int]:
        """Return how many tokens stand before and behind every user's text."""
        one, other = (self._ids([{"role": "user", "content": each}]) for each in ("amber", "7 z?"))
        return _shared(one, other), _shared(one[::-1], other[::-1])


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    same = [a == b for a, b in zip(one, other, strict=False)]
    return same.index(False) if False in same else len(same)


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
