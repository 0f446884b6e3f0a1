"""The served engine at the work of fitting: states of texts, and what it says of them steered.

Shape suffixes: T tokens of a text from its start, D width of the site, F numbers of a state,
N texts, L layers.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pilothouse.config import PilothouseConfig, Taps
from pilothouse.errors import ConfigError, argument
from pilothouse.limits import Limits
from pilothouse.offline_env import set_offline_env
from pilothouse.progress import Advance
from pilothouse.term import SteerTerm
from pilothouse.training.methods import Floats
from pilothouse.training.scored_text import Said, ScoredText, said_of
from pilothouse.types import Site

if TYPE_CHECKING:
    from pilothouse.llm import LLM

TOP = 20
"""Likeliest tokens that are compared; vLLM gives no more unless told to."""
CAPTURE_BYTES = 256 << 20
"""So much of states, about, is on disk at a time."""
WAVE_TOKENS = 1024
"""So many tokens, about, are computed between two signs of progress. Their scores are held."""
ANSWERS = 256
"""Texts that are continued at a time."""
LIMITS = Limits(max_programs=64, max_norm_ratio=1e6, max_wait_ms=3_600_000)
"""Every strength that is asked for is measured; what waits for a slot gets one."""

Reduce = Callable[[Floats], Floats]
"""hidden_TD of a text to its state [F]."""


class States(NamedTuple):
    """A state of each text at each layer, and the mean length of the stream there."""

    states_LNF: Floats
    norms_L: Floats


class FitEngine:
    """An engine with a tap at each of `layers` of a site.

    Args:
        layers: None for every layer there is.
        settings: passed to vLLM's `LLM`.

    Raises:
        ConfigError: a model, layer or setting that cannot be.
    """

    def __init__(
        self,
        model: str,
        model_id: str,
        settings: dict[str, Any],
        site: Site,
        layers: Sequence[int] | None,
    ) -> None:
        set_offline_env(in_process=True, small=False)
        from pilothouse.engine.plan.model_facts import model_facts
        from pilothouse.llm import LLM  # vLLM takes seconds to import

        facts = model_facts(Namespace(model=model, **settings))
        every = range(1 if site == "embed" else facts.num_layers)
        self.layers, self.d_model = tuple(every if layers is None else layers), facts.d_model
        taps = Taps.model_validate({site: self.layers, "operators": ("add",)})
        self.config = PilothouseConfig(version=1, model_id=model_id, taps=taps, limits=LIMITS)
        self.llm: LLM = LLM(
            model, pilothouse_config=self.config, **({"enforce_eager": True} | settings)
        )
        self._tokenizer: Any = self.llm.get_tokenizer()
        config = self.llm.llm_engine.vllm_config
        self.max_tokens = int(config.model_config.max_model_len)
        cache = config.cache_config
        self.dtype = str(config.model_config.dtype).removeprefix("torch.")
        self.block_size = int(cache.block_size) if cache.enable_prefix_caching else 0
        self.texts = self.tokens = 0
        self._unsteered: dict[tuple[ScoredText, bool], Said] = {}

    def close(self) -> None:
        """Let go of the engine, so that another can be made."""
        from vllm.distributed import cleanup_dist_env_and_memory

        from pilothouse.engine.vllm.rpc import shut_down

        shut_down(self.llm)
        del self.llm
        cleanup_dist_env_and_memory()

    def load(self, vectors: dict[str, Path]) -> None:
        """Have these vectors, and no others, to steer with."""
        config = self.config.model_dump() | {
            "vectors": {k: {"path": v} for k, v in vectors.items()}
        }
        self.llm.reload(PilothouseConfig.model_validate(config))

    def check_length(self, longest: int) -> None:
        """Refuse texts for which the engine has no room, which can be less than the model's.

        Raises:
            ConfigError: says how long the longest is.
        """
        if longest >= self.max_tokens:
            raise ConfigError(
                f"got a text of {longest} tokens with its prompt, want fewer than "
                f"{self.max_tokens}: shorten it, or raise {argument('engine.max_model_len')}"
            )

    def text(self, ids: Sequence[int]) -> str:
        """Return token ids as text, without special tokens."""
        said: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return said

    def random_lines(self, count: int, length: int, seed: int) -> list[ScoredText]:
        """Draw texts of tokens that mean nothing together, special ones left out."""
        special = set(self._tokenizer.all_special_ids)
        known = np.array([each for each in range(len(self._tokenizer)) if each not in special])
        drawn = np.random.default_rng(seed).choice(known, (count, length))
        return [ScoredText(tuple(row.tolist()), 1) for row in drawn]

    def states(
        self,
        lines: Sequence[ScoredText],
        layers: Sequence[int],
        site: Site,
        reduce: Reduce,
        advance: Advance,
    ) -> States:
        """Return the state of each text at each layer, as the engine computes them, unsteered."""
        facts = self.llm.plan.body.model
        width = facts.projection_widths.get(site, facts.d_model)
        parts: list[list[list[Floats]]] = []
        lengths_L, count = np.zeros(len(layers)), 0
        for part in _parts(lines, max(1, CAPTURE_BYTES // (4 * width * len(layers)))):
            with TemporaryDirectory(prefix="pilothouse-fit-") as place:
                reader = self.llm.capture(
                    [list(line.ids) for line in part],
                    list(layers),
                    sites=[site],
                    out=place,
                    progress=False,
                )
                found: list[list[Floats]] = []
                for index, layer in enumerate(layers):
                    hidden_ND, labels = reader.layer(layer, site)
                    # The first token carries what attention finds nowhere else to put.
                    later = np.asarray(labels.position_R) > 0
                    norms = np.linalg.norm(hidden_ND[later].astype(np.float64), axis=1)
                    lengths_L[index] += float(norms.sum())
                    count += len(norms) if index == 0 else 0
                    ends = np.cumsum([len(line.ids) for line in part])
                    found.append(
                        [
                            reduce(
                                hidden_ND[end - len(line.ids) + line.start : end].astype(np.float64)
                            )
                            for line, end in zip(part, ends, strict=True)
                        ]
                    )
                parts.append(found)
            self.texts += len(part)
            self.tokens += sum(len(line.ids) for line in part)
            advance(len(part))
        states = [[each for part in parts for each in part[index]] for index in range(len(layers))]
        return States(np.array(states), lengths_L / count)

    def say(
        self,
        lines: Sequence[ScoredText],
        terms: Sequence[SteerTerm | None],
        with_tops: Sequence[bool],
        advance: Advance,
    ) -> list[Said]:
        """Return what the model says of each text under its term.

        Texts that begin alike go to the engine together, so that what they share is computed once
        where no edit reaches it. What it says unsteered is remembered.

        Args:
            lines: the texts.
            terms: the steering of each, or None.
            with_tops: whether the likeliest tokens are told, too.
            advance: told how many texts are done.
        """
        found: dict[int, Said] = {
            n: self._unsteered[line, tops]
            for n, (line, term, tops) in enumerate(zip(lines, terms, with_tops, strict=True))
            if term is None and (line, tops) in self._unsteered
        }
        advance(len(found))
        left = [n for n in range(len(lines)) if n not in found]
        order = sorted(left, key=lambda n: (lines[n].ids[: lines[n].start], n))
        for wave in self._waves(order, lines):
            asked = [(lines[n], terms[n], with_tops[n]) for n in wave]
            outputs = self._scored(asked, reads_cache=True)
            # A hit that goes further than the prompt leaves out what was asked for.
            short = [i for i, each in enumerate(outputs) if _cached(each) >= asked[i][0].start]
            again = self._scored([asked[i] for i in short], reads_cache=False) if short else []
            outputs = list(outputs)
            for i, each in zip(short, again, strict=True):
                outputs[i] = each
            for n, (line, term, tops), each in zip(wave, asked, outputs, strict=True):
                found[n] = said_of(line, each.prompt_logprobs, tops=tops)
                if term is None:
                    self._unsteered[line, tops] = found[n]
            advance(len(wave))
        return [found[n] for n in range(len(lines))]

    def answers(
        self,
        contexts: Sequence[Sequence[int]],
        terms: Sequence[SteerTerm | None],
        max_tokens: int,
        advance: Advance,
    ) -> list[tuple[int, ...]]:
        """Return the greedy continuation under each context's term."""
        from vllm import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, detokenize=False)
        found: list[tuple[int, ...]] = []
        for first in range(0, len(contexts), ANSWERS):
            part = slice(first, first + ANSWERS)
            outputs = self._run(contexts[part], [params] * len(contexts[part]), terms[part])
            self.tokens += sum(len(each.outputs[0].token_ids) for each in outputs)
            found += [tuple(each.outputs[0].token_ids) for each in outputs]
            advance(len(outputs))
        return found

    def _waves(self, order: Sequence[int], lines: Sequence[ScoredText]) -> Iterator[list[int]]:
        """Yield numbers of texts, in this order, by stretches of about `WAVE_TOKENS` to compute."""
        wave: list[int] = []
        held = 0
        before: tuple[int, ...] | None = None
        for n in order:
            context = lines[n].ids[: lines[n].start]
            cost = len(lines[n].ids) - (self.shared_tokens(lines[n]) if context == before else 0)
            if wave and held + cost > WAVE_TOKENS:
                yield wave
                wave, held = [], 0
            wave.append(n)
            held, before = held + cost, context
        if wave:
            yield wave

    def shared_tokens(self, line: ScoredText) -> int:
        """Count the tokens of a text's prompt that another text of this prompt need not compute."""
        return (line.start - 1) // self.block_size * self.block_size if self.block_size else 0

    def _scored(
        self, asked: Sequence[tuple[ScoredText, SteerTerm | None, bool]], *, reads_cache: bool
    ) -> list[Any]:
        from vllm import SamplingParams

        def params(term: SteerTerm | None, tops: bool) -> Any:
            # What is unsteered may lie in the cache with its answer, and then has no scores.
            skips = term is None or not reads_cache
            return SamplingParams(
                temperature=0.0,
                max_tokens=1,
                prompt_logprobs=TOP if tops else 0,
                detokenize=False,
                flat_logprobs=True,
                skip_reading_prefix_cache=skips,
            )

        return self._run(
            [line.ids for line, _, _ in asked],
            [params(term, tops) for _, term, tops in asked],
            [term for _, term, _ in asked],
        )

    def _run(
        self,
        prompts: Sequence[Sequence[int]],
        params: Sequence[Any],
        terms: Sequence[SteerTerm | None],
    ) -> list[Any]:
        outputs: list[Any] = self.llm.generate(
            [{"prompt_token_ids": list(each)} for each in prompts],
            list(params),
            steer=[[each] if each is not None else [] for each in terms],
            scores="none",
            use_tqdm=False,
        )
        for each in outputs:
            told = each.outputs[0].pilothouse
            if told["action"] == "refused":
                raise ConfigError(f"the engine turned a text away: {told['error']}")
        self.texts += len(outputs)
        fed = zip(prompts, outputs, strict=True)
        self.tokens += sum(len(prompt) - _cached(each) for prompt, each in fed)
        return outputs


def _parts(lines: Sequence[ScoredText], tokens: int) -> list[list[ScoredText]]:
    """Split texts into stretches of about so many tokens."""
    parts: list[list[ScoredText]] = [[]]
    held = 0
    for line in lines:
        if parts[-1] and held + len(line.ids) > tokens:
            parts.append([])
            held = 0
        parts[-1].append(line)
        held += len(line.ids)
    return parts


def _cached(output: Any) -> int:
    return int(output.num_cached_tokens or 0)
