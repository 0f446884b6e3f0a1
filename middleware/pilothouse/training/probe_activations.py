"""Reads labelled texts with the engine that serves, through a cache on disk.

The engine starts when something is missing in the cache, and then once.

Shape suffixes: R rows of a text, L layers, D width of the stream, T tokens of a text, N texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from pilothouse import __version__
from pilothouse.errors import ConfigError
from pilothouse.progress import Phase
from pilothouse.training.activation_cache import ActivationCache, Floats32
from pilothouse.training.fit_engine import FitEngine
from pilothouse.training.probe_texts import Prompt
from pilothouse.training.scored_text import ScoredText
from pilothouse.types import Site

Keep = Literal["last", "ends", "whole"]
"""Rows of a text: its last token, the mean and the last of its scope, or every token."""

WAVE_TEXTS = 64
WAVE_TOKENS = 8192
"""Bounds on what is read between two files of the cache: an interrupted run loses no more."""
NEWEST_HEAD = 1 << 20
"""Bytes of a file of weights that tell it from others, beside its size and time."""


class ActivationReader:
    """Reads texts with one model at some layers.

    Args:
        model: its folder or name.
        model_id: what artefacts call it.
        layers: those to read.
        settings: of vLLM's `LLM`, with a dtype.
        cache: folder of the cache.
        phase: shows how far it is.
        site: where in a layer.
    """

    def __init__(
        self,
        model: str,
        model_id: str,
        layers: Sequence[int],
        settings: Mapping[str, Any],
        cache: Path,
        phase: Phase,
        site: Site = "resid_post",
    ) -> None:
        self.layers, self._site = tuple(layers), site
        self._model, self._model_id = model, model_id
        self._settings, self._cache, self._phase = dict(settings), cache, phase
        self._engine: FitEngine | None = None
        self._fingerprint = model_fingerprint(model, self._settings)

    def hidden(self, title: str, prompts: Sequence[Prompt], keep: Keep) -> list[Floats32]:
        """rows_RLD of each text.

        Raises:
            ConfigError: a text that the engine turns away, a cache that cannot be written.
            KeyboardInterrupt: Ctrl-C; what was read by then is kept.
        """
        cache = self._kept({"kind": keep, "layers": self.layers, "site": self._site})
        names = [_digest(each, with_scope=keep != "last") for each in prompts]

        def read(part: list[Prompt]) -> list[Floats32]:
            return self._captured(part, keep)

        self._fill(cache, title, names, prompts, read)
        return cache.rows(names)

    def log_probabilities(self, title: str, prompts: Sequence[Prompt]) -> list[float]:
        """The mean log-probability of each text's own tokens; 0 for a text without any."""
        cache = self._kept({"kind": "mean log-probability"})
        names = [_digest(each, with_scope=True) for each in prompts]

        def read(part: list[Prompt]) -> list[Floats32]:
            lines = [ScoredText(each.ids[: each.stop], max(1, each.start)) for each in part]
            means = [0.0] * len(lines)
            asked = [n for n, each in enumerate(lines) if len(each.ids) > each.start]
            said = self._started().say(
                [lines[n] for n in asked], [None] * len(asked), [False] * len(asked), _silent
            )
            for n, each in zip(asked, said, strict=True):
                means[n] = each.mean
            return [np.full((1, 1, 1), mean, np.float32) for mean in means]

        self._fill(cache, title, names, prompts, read)
        return [float(each[0, 0, 0]) for each in cache.rows(names)]

    def close(self) -> None:
        """Let go of the engine, if it was started."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _kept(self, about: Mapping[str, object]) -> ActivationCache:
        return ActivationCache(self._cache, {**self._fingerprint, **about})

    def _fill(
        self,
        cache: ActivationCache,
        title: str,
        names: Sequence[str],
        prompts: Sequence[Prompt],
        read: Callable[[list[Prompt]], list[Floats32]],
    ) -> None:
        by_name = dict(zip(names, prompts, strict=True))
        left = cache.missing(names)
        if not left:
            return
        if self._engine is None:
            self._phase("starting the engine", None)
            self._started()
        advance = self._phase(title, len(by_name))
        advance(len(by_name) - len(left))
        for part in _waves(left, by_name):
            cache.add(part, read([by_name[each] for each in part]))
            advance(len(part))

    def _started(self) -> FitEngine:
        if self._engine is None:
            self._engine = FitEngine(
                self._model, self._model_id, self._settings, self._site, self.layers
            )
        return self._engine

    def _captured(self, prompts: Sequence[Prompt], keep: Keep) -> list[Floats32]:
        engine = self._started()
        engine.check_length(max(len(each.ids) for each in prompts))
        with TemporaryDirectory(prefix="pilothouse-fit-") as place:
            reader = engine.llm.capture(
                [list(each.ids) for each in prompts],
                list(self.layers),
                sites=[self._site],
                positions="last_prompt" if keep == "last" else "prompt",
                out=place,
                progress=False,
            )
            hidden_TLD = np.stack(
                [reader.layer(layer, self._site)[0] for layer in self.layers], axis=1
            )
        if not np.isfinite(hidden_TLD).all():
            raise ConfigError(
                where="activations",
                got=f"{int((~np.isfinite(hidden_TLD)).sum())} that are not finite",
                want="finite ones",
                fix="read the model in another --dtype: float16 overflows in many",
            )
        if keep == "last":
            return [each[None].astype(np.float32) for each in hidden_TLD]
        ends = np.cumsum([len(each.ids) for each in prompts])
        return [
            _reduced(hidden_TLD[end - len(each.ids) : end], each, keep)
            for each, end in zip(prompts, ends, strict=True)
        ]


def scope_of(prompt: Prompt) -> slice:
    """The tokens that are scored: those of the answer, or of the prompt where there is none."""
    has_answer = len(prompt.ids) > prompt.prompt_tokens
    return slice(prompt.prompt_tokens if has_answer else 0, len(prompt.ids))


def model_fingerprint(model: str, settings: Mapping[str, Any]) -> dict[str, object]:
    """What tells a model and how it is run from others, so that a cache is never another's.

    A folder's weights are told by name, size, time and first MiB of each file; a model of a hub by
    its name and revision, and by the commit where it has been downloaded.
    """
    from pilothouse.engine.vllm.version import vllm_version

    shown = {name: settings[name] for name in sorted(settings) if name not in WITHOUT_EFFECT}
    about: dict[str, object] = {
        "settings": shown,
        "vllm": str(vllm_version()),
        "pilothouse": __version__,
    }
    folder = Path(model)
    if not folder.is_dir():
        return about | {"model": model, "commit": _commit(model, settings.get("revision"))}
    hasher = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".json", ".safetensors", ".bin", ".gguf", ".model", ".jinja"):
            continue
        stat = path.stat()
        with path.open("rb") as file:
            head = file.read(NEWEST_HEAD)
        hasher.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode() + head)
    return about | {"model": hasher.hexdigest()}


WITHOUT_EFFECT = frozenset(
    {
        "kv_cache_memory_bytes",
        "max_model_len",
        "max_num_seqs",
        "gpu_memory_utilization",
        "disable_log_stats",
        "enable_prefix_caching",
    }
)
"""Settings by which activations do not differ, but for what any batch does to rounding."""


def _commit(model: str, revision: str | None) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None


def _reduced(hidden_TLD: Any, prompt: Prompt, keep: Keep) -> Floats32:
    if keep == "whole":
        rows: Floats32 = hidden_TLD.astype(np.float32)
        return rows
    scoped = hidden_TLD[scope_of(prompt)]
    mean = scoped.mean(axis=0, dtype=np.float64)
    return np.stack([mean, scoped[-1]]).astype(np.float32)


def _digest(prompt: Prompt, *, with_scope: bool) -> str:
    parts: list[object] = [prompt.ids]
    parts += [prompt.prompt_tokens, prompt.start, prompt.stop] if with_scope else []
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _waves(names: Sequence[str], prompts: Mapping[str, Prompt]) -> list[list[str]]:
    waves: list[list[str]] = [[]]
    held = 0
    for each in names:
        tokens = len(prompts[each].ids)
        if waves[-1] and (len(waves[-1]) >= WAVE_TEXTS or held + tokens > WAVE_TOKENS):
            waves.append([])
            held = 0
        waves[-1].append(each)
        held += tokens
    return waves


def _silent(_: int) -> None:
    return None
