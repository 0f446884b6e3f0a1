"""The served engine at the work of fitting: states of texts, and what it says of them steered.

Shape suffixes: T tokens of a text from its start, D width of the site, F numbers of a state,
N texts, L layers.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pilothouse.cli.quiet import quieten
from pilothouse.config import PilothouseConfig, Taps
from pilothouse.contrast.line import Line, Said
from pilothouse.contrast.sample import Floats
from pilothouse.errors import ConfigError
from pilothouse.limits import Limits
from pilothouse.progress import Advance
from pilothouse.term import SteerTerm
from pilothouse.types import Site

if TYPE_CHECKING:
    from pilothouse.llm import LLM

TOP = 20
"""Likeliest tokens that are compared; vLLM gives no more unless told to."""
CAPTURE_BYTES = 256 << 20
"""About this much of states is on disk at a time."""
WAVE = 1024
"""Texts that are with the engine at a time."""
LIMITS = Limits(max_programs=64, max_norm_ratio=1e6, max_wait_ms=3_600_000)
"""Every strength that is asked for is measured; what waits for a slot gets one."""

Reduce = Callable[[Floats], Floats]
"""hidden_TD of a text to its state [F]."""


class States(NamedTuple):
    """A state of each text at each layer, and the mean length of the stream there."""

    states_LNF: Floats
    norms_L: Floats


class Stand:
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
        quieten(in_process=True)
        from pilothouse.engine.model_facts import model_facts
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
        self.max_tokens = int(self.llm.llm_engine.vllm_config.model_config.max_model_len)

    def close(self) -> None:
        """Let go of the engine, so that another can be made."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
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
                f"{self.max_tokens}: shorten it, or raise --max-model-len behind --"
            )

    def text(self, ids: Sequence[int]) -> str:
        """Token ids as text, without special tokens."""
        said: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return said

    def random_lines(self, count: int, length: int, seed: int) -> list[Line]:
        """Texts of tokens that mean nothing together, special ones left out."""
        special = set(self._tokenizer.all_special_ids)
        known = np.array([each for each in range(len(self._tokenizer)) if each not in special])
        drawn = np.random.default_rng(seed).choice(known, (count, length))
        return [Line(tuple(row.tolist()), 1) for row in drawn]

    def states(
        self,
        lines: Sequence[Line],
        layers: Sequence[int],
        site: Site,
        reduce: Reduce,
        advance: Advance,
    ) -> States:
        """The state of each text at each layer, as the engine computes them, unsteered."""
        facts = self.llm.plan.body.model
        width = facts.projection_widths.get(site, facts.d_model)
        parts: list[list[list[Floats]]] = []
        lengths_L, count = np.zeros(len(layers)), 0
        for part in _parts(lines, max(1, CAPTURE_BYTES // (4 * width * len(layers)))):
            with TemporaryDirectory(prefix="pilothouse-fit-") as place:
                reader = self.llm.capture(
                    [list(line.ids) for line in part], list(layers), sites=[site], out=place,
                    progress=False,
                )  # fmt: skip
                found: list[list[Floats]] = []
                for index, layer in enumerate(layers):
                    hidden_ND, labels = reader.layer(layer, site)
                    # The first token carries what attention finds nowhere else to put.
                    later = np.asarray(labels.position_R) > 0
                    norms = np.linalg.norm(hidden_ND[later].astype(np.float64), axis=1)
                    lengths_L[index] += float(norms.sum())
                    count += len(norms) if index == 0 else 0
                    ends = np.cumsum([len(line.ids) for line in part])
                    found.append([
                        reduce(hidden_ND[end - len(line.ids) + line.start : end].astype(np.float64))
                        for line, end in zip(part, ends, strict=True)
                    ])  # fmt: skip
                parts.append(found)
            advance(len(part))
        states = [[each for part in parts for each in part[index]] for index in range(len(layers))]
        return States(np.array(states), lengths_L / count)

    def say(self, lines: Sequence[Line], terms: Sequence[SteerTerm | None]) -> list[Said]:
        """What the model says of each text under its term."""
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=TOP, detokenize=False
        )
        found: list[Said] = []
        for first in range(0, len(lines), WAVE):
            wave = lines[first : first + WAVE]
            outputs = self.llm.generate(
                [{"prompt_token_ids": list(line.ids)} for line in wave],
                params,
                steer=[[each] if each is not None else [] for each in terms[first : first + WAVE]],
                scores="none",
                use_tqdm=False,
            )
            found += [_said(line, each) for line, each in zip(wave, outputs, strict=True)]
        return found

    def answers(
        self, contexts: Sequence[Sequence[int]], terms: Sequence[SteerTerm | None], max_tokens: int
    ) -> list[tuple[int, ...]]:
        """Greedy continuations under each context's term."""
        from vllm import SamplingParams

        outputs = self.llm.generate(
            [{"prompt_token_ids": list(each)} for each in contexts],
            SamplingParams(temperature=0.0, max_tokens=max_tokens, detokenize=False),
            steer=[[each] if each is not None else [] for each in terms],
            scores="none",
            use_tqdm=False,
        )
        return [tuple(each.outputs[0].token_ids) for each in outputs]


def _parts(lines: Sequence[Line], tokens: int) -> list[list[Line]]:
    """Stretches of about so many tokens."""
    parts: list[list[Line]] = [[]]
    held = 0
    for line in lines:
        if parts[-1] and held + len(line.ids) > tokens:
            parts.append([])
            held = 0
        parts[-1].append(line)
        held += len(line.ids)
    return parts


def _said(line: Line, output: Any) -> Said:
    told = output.outputs[0].pilothouse
    if told["action"] == "refused":
        raise ConfigError(f"the engine turned a text away: {told['error']}")
    entries = output.prompt_logprobs[line.start :]
    own = [entry[token] for entry, token in zip(entries, line.ids[line.start :], strict=True)]
    return Said(
        np.array([each.logprob for each in own], np.float64),
        np.array([each.rank == 1 for each in own]),
        [{token: each.logprob for token, each in entry.items()} for entry in entries],
    )
