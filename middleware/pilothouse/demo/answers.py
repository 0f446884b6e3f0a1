"""Answers of the served engine under steering, kept on disk by the digest of what was asked.

An interrupted run goes on where it stopped: what was answered is read from the cache folder.

Shape suffixes: N texts, L layers, D width of the stream, T tokens.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from pilothouse.artifacts.vector import Vector, save_vector
from pilothouse.config import PilothouseConfig, Taps
from pilothouse.demo.directions import States
from pilothouse.demo.result_cache import ResultCache, digest_of_parts
from pilothouse.demo.wheels import digest_of
from pilothouse.errors import EngineError
from pilothouse.limits import Limits
from pilothouse.progress import Phase
from pilothouse.term import SteerTerm
from pilothouse.training.methods import Floats
from pilothouse.training.pair import Pair
from pilothouse.training.scored_text import ScoredText, said_of

if TYPE_CHECKING:
    from pilothouse.llm import LLM

ENVIRONMENT: Final = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TRANSFORMERS_VERBOSITY": "error",
}
LIMITS: Final = Limits(max_programs=128, max_rank=1, max_norm_ratio=1e6, max_wait_ms=3_600_000)
"""Every strength that is tried is measured; a request that waits for a slot gets one."""
OPERATORS: Final = ("add", "floor", "cap")
BLOCK_TOKENS: Final = 32
"""The model's system prompt and the first words of a question: what one question has in common
under all steering is computed once. vLLM's own choice, 128, is longer than any of the questions."""
CONTEXT_TOKENS: Final = 512
BATCH: Final = 160
WAVE: Final = 320
"""Requests given to the engine at a time; their answers are lost where a run is interrupted."""
Ids = tuple[int, ...]


class Ask(NamedTuple):
    """A question under some steering. `terms` name vectors by the names they are loaded under."""

    question: str
    terms: tuple[SteerTerm, ...]
    max_tokens: int


class Answer(NamedTuple):
    """An answer in tokens and as text."""

    ids: Ids
    text: str


class Answerer:
    """An engine with a tap at each of some layers, and what it has answered before.

    Args:
        model: its folder; its name is what manifests call the model.
        layers: those that vectors edit.
        store: the file of answers, made where it is not there.
    """

    def __init__(self, model: Path, layers: Sequence[int], store: Path) -> None:
        from transformers import AutoTokenizer

        self.model_id = model.name
        self._model, self._layers = model, tuple(layers)
        self._digest = digest_of(model / "model.safetensors")
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self._vectors: dict[str, Vector] = {}
        self._llm: LLM | None = None
        self._loaded: tuple[str, ...] = ()
        self._store, self._cache = store, ResultCache(store)

    def __enter__(self) -> Answerer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cache.close()

    def have(self, vectors: Mapping[str, Vector]) -> None:
        """Steer with these vectors, and no others, from now on."""
        self._vectors = dict(vectors)

    def ids_of(self, question: str) -> Ids:
        """Return a question in token ids, as the server would put it."""
        messages = [{"role": "user", "content": question}]
        return tuple(
            self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False
            )
        )

    def as_answer(self, text: str) -> Answer:
        """Return what somebody else said as if it had been an answer."""
        return Answer(tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"]), text)

    def states(self, pairs: Sequence[Pair], phase: Phase) -> States:
        """Return the mean state of each answer's tokens at each layer, unsteered.

        The mean length of the stream is over all tokens but each text's first, which carries what
        attention finds nowhere else to put. States are kept bit by bit: a vector made of others
        would have other answers.
        """
        texts: list[tuple[Ids, int]] = []
        for side in ("positive", "negative"):
            for pair in pairs:
                asked = self.ids_of(pair.messages[-1].content if pair.messages else "")
                said = self._tokenizer(getattr(pair, side), add_special_tokens=False)["input_ids"]
                texts.append(((*asked, *said), len(asked)))
        digest = digest_of_parts("states", self._digest, self._layers, texts)
        place = self._store.with_name(f"states-{digest[:16]}.npz")
        if not place.is_file():
            means_LNF, norms_L = self._capture(texts, phase)
            with NamedTemporaryFile(dir=place.parent, suffix=".npz", delete=False) as file:
                np.savez(file, means=means_LNF, norms=norms_L)
            Path(file.name).replace(place)
        with np.load(place) as found:
            means_LNF, norms_L = found["means"], found["norms"]
        half = len(pairs)
        return States(means_LNF[:, :half], means_LNF[:, half:], norms_L)

    def _capture(self, texts: Sequence[tuple[Ids, int]], phase: Phase) -> tuple[Floats, Floats]:
        """Return mean states of what each text says from its start on, and the stream's lengths."""
        advance = phase("states of the pairs", len(texts))
        ends = np.cumsum([len(ids) for ids, _ in texts])
        means: list[list[Floats]] = []
        norms: list[float] = []
        with TemporaryDirectory(prefix="pilothouse-card-") as place:
            reader = self._engine().capture(
                [list(ids) for ids, _ in texts],
                list(self._layers),
                out=Path(place) / "states",
                progress=False,
            )
            advance(len(texts))
            for layer in self._layers:
                hidden_TD, labels = reader.layer(layer)
                exact_TD = hidden_TD.astype(np.float64)
                later_T = np.asarray(labels.position_R) > 0
                norms.append(float(np.linalg.norm(exact_TD[later_T], axis=1).mean()))
                means.append(
                    [
                        exact_TD[end - len(ids) + start : end].mean(axis=0)
                        for (ids, start), end in zip(texts, ends, strict=True)
                    ]
                )
        return np.array(means), np.array(norms)

    def answers(self, asks: Sequence[Ask], phase: Phase, title: str) -> list[Answer]:
        """Return the greedy answer of each, all in the same batches whatever their steering."""
        keys = [self._key(each) for each in asks]
        missing = {
            key: each for key, each in zip(keys, asks, strict=True) if self._cache.get(key) is None
        }
        advance = phase(title, len(missing) or 1)
        waiting = sorted(missing.items(), key=lambda item: item[1].max_tokens)
        for first in range(0, len(waiting), WAVE):
            wave = waiting[first : first + WAVE]
            said = self._generate([each for _, each in wave])
            self._cache.put({key: list(ids) for (key, _), ids in zip(wave, said, strict=True)})
            advance(len(wave))
        found = [tuple(self._cache.get(key) or ()) for key in keys]
        return [
            Answer(ids, self._tokenizer.decode(list(ids), skip_special_tokens=True).strip())
            for ids in found
        ]

    def surprise(self, said: Sequence[tuple[str, Answer]], phase: Phase, title: str) -> list[float]:
        """Return of each answer to its question the mean negative log-probability, unsteered.

        In nats a token. An answer without tokens has none to be surprised at: 0.
        """
        lines = [(self.ids_of(question), answer.ids) for question, answer in said]
        keys = [digest_of_parts("surprise", self._digest, *each) for each in lines]
        missing = [
            (key, each)
            for key, each in dict(zip(keys, lines, strict=True)).items()
            if each[1] and self._cache.get(key) is None
        ]
        advance = phase(title, len(missing) or 1)
        for first in range(0, len(missing), WAVE):
            wave = missing[first : first + WAVE]
            self._cache.put(
                dict(
                    zip(
                        [key for key, _ in wave],
                        self._score([each for _, each in wave]),
                        strict=True,
                    )
                )
            )
            advance(len(wave))
        return [
            float(self._cache.get(key)) if each[1] else 0.0
            for key, each in zip(keys, lines, strict=True)
        ]

    def _generate(self, asks: Sequence[Ask]) -> list[Ids]:
        from vllm import SamplingParams

        outputs = self._engine().generate(
            [{"prompt_token_ids": list(self.ids_of(each.question))} for each in asks],
            [
                SamplingParams(temperature=0.0, max_tokens=each.max_tokens, detokenize=False)
                for each in asks
            ],
            steer=[list(each.terms) for each in asks],
            scores="none",
            use_tqdm=False,
        )
        for output in outputs:
            told = output.outputs[0].pilothouse
            if told["action"] == "refused":
                raise EngineError(f"the engine turned a question away: {told.get('error')}")
        return [tuple(each.outputs[0].token_ids) for each in outputs]

    def _score(self, lines: Sequence[tuple[Ids, Ids]]) -> list[float]:
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,
            flat_logprobs=True,
        )
        outputs = self._engine().generate(
            [{"prompt_token_ids": [*asked, *said]} for asked, said in lines],
            params,
            scores="none",
            use_tqdm=False,
        )
        return [
            -said_of(ScoredText((*asked, *said), len(asked)), output.prompt_logprobs).mean
            for (asked, said), output in zip(lines, outputs, strict=True)
        ]

    def _engine(self) -> LLM:
        if self._llm is None:
            for name, value in ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            from pilothouse.llm import LLM  # vLLM takes seconds to import

            self._llm = LLM(
                str(self._model),
                pilothouse_config=self._config({}),
                dtype="float32",
                enforce_eager=True,
                max_model_len=CONTEXT_TOKENS,
                max_num_seqs=BATCH,
                block_size=BLOCK_TOKENS,
            )
        wanted = tuple(sorted(each.digest for each in self._vectors.values()))
        if wanted != self._loaded:
            with TemporaryDirectory(prefix="pilothouse-card-") as place:
                folders = {name: Path(place) / name for name in self._vectors}
                for name, folder in folders.items():
                    save_vector(self._vectors[name], folder)
                self._llm.reload(self._config(folders))
            self._loaded = wanted
        return self._llm

    def _config(self, folders: Mapping[str, Path]) -> PilothouseConfig:
        return PilothouseConfig.model_validate(
            {
                "version": 1,
                "model_id": self.model_id,
                "limits": LIMITS,
                "taps": Taps(resid_post=self._layers, operators=OPERATORS),
                "vectors": {name: {"path": folder} for name, folder in folders.items()},
            }
        )

    def _key(self, ask: Ask) -> str:
        """Digest all that decides an answer: a vector counts by its numbers, not by its name."""
        terms = [
            each.model_dump(mode="json", exclude_none=True)
            | {"vector": self._vectors[each.name].manifest.weights_sha256}
            for each in ask.terms
        ]
        return digest_of_parts(
            "answer", self._digest, self.ids_of(ask.question), terms, ask.max_tokens
        )
