"""What a capture is asked for: prompts, places, positions, how it is kept.

Two equal orders can be joined.

Shape suffixes: none; everything here is plain data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from pilothouse.artifacts.catalog import SERVED_SITES
from pilothouse.errors import ConfigError
from pilothouse.term import SteerTerm
from pilothouse.types import Site, Tap

Positions = Literal["prompt", "output", "all", "last_prompt"]
"""`output` is every sampled token that was fed; the last one of an answer never is."""

Storage = Literal["float32", "bfloat16"]

SHARD_BYTES = 256 << 20
"""About this much of a capture is held in memory, and lies in one file, unless rows are given."""
BYTES: dict[Storage, int] = {"float32": 4, "bfloat16": 2}
DEFAULT_MAX_TOKENS = 16


class CaptureOrder(BaseModel):
    """One capture, as far as it decides which numbers there are and how they lie on disk."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: tuple[int, ...]
    sites: tuple[Site, ...]
    positions: Positions
    max_tokens: int
    steer: tuple[SteerTerm, ...]
    profile: str | None
    dtype: Storage
    rows_per_shard: int
    num_prompts: int
    prompts_digest: str
    options: str
    """What else was passed on to vLLM, as text."""

    @property
    def places(self) -> tuple[Tap, ...]:
        """Every (layer, site), in the order in which a token passes them."""
        pairs = {Tap(layer, site) for layer in self.layers for site in self.sites}
        return tuple(sorted(pairs, key=lambda each: each.depth))

    def span(self, num_prompt_tokens: int) -> tuple[int, int]:
        """Positions [start, stop) of a request that get rows, if they are fed."""
        fed = num_prompt_tokens + self.max_tokens - 1
        return {
            "prompt": (0, num_prompt_tokens),
            "last_prompt": (num_prompt_tokens - 1, num_prompt_tokens),
            "output": (num_prompt_tokens, fed),
            "all": (0, fed),
        }[self.positions]


def capture_order(
    prompts: Sequence[Any],
    *,
    layers: Sequence[int],
    sites: Sequence[str],
    positions: str,
    max_tokens: int | None,
    steer: Sequence[SteerTerm],
    profile: str | None,
    dtype: str,
    rows_per_shard: int | None,
    options: dict[str, Any],
    num_layers: int,
    d_model: int,
    widths: Mapping[Site, int],
) -> CaptureOrder:
    """The order that arguments of `LLM.capture` make.

    `widths` of the sites that are not as wide as the stream, as far as they are known.

    Raises:
        ConfigError: names every argument that is wrong, what it got and what it wants.
    """
    problems = [
        *_list_problems("layers", layers, range(num_layers), f"integers from 0..{num_layers - 1}"),
        *_list_problems("sites", sites, SERVED_SITES, f"names from {list(SERVED_SITES)}"),
        *_choice_problems("positions", positions, get_args(Positions)),
        *_choice_problems("dtype", dtype, get_args(Storage)),
        *_count_problems("rows_per_shard", rows_per_shard, 1),
        *_token_problems(positions, max_tokens),
    ]
    if not prompts:
        problems.append("prompts: got none, want at least one")
    if problems:
        raise ConfigError("\n".join(problems))

    def width_of(site: Any) -> int:
        return widths.get(site, d_model)

    wants_output = positions in ("output", "all")
    kept: Any = dtype
    row_bytes = len(set(layers)) * sum(map(width_of, set(sites))) * BYTES[kept]
    return CaptureOrder(
        layers=tuple(dict.fromkeys(int(layer) for layer in layers)),
        sites=tuple(dict.fromkeys(sites)),  # type: ignore[arg-type]
        positions=positions,  # type: ignore[arg-type]
        max_tokens=(max_tokens or DEFAULT_MAX_TOKENS) if wants_output else 1,
        steer=tuple(steer),
        profile=profile,
        dtype=kept,
        rows_per_shard=rows_per_shard or max(1, SHARD_BYTES // row_bytes),
        num_prompts=len(prompts),
        prompts_digest=digest_of_prompts(prompts),
        options=json.dumps(options, sort_keys=True, default=repr),
    )


def digest_of_prompts(prompts: Sequence[Any]) -> str:
    """Hex sha256 over all prompts.

    Raises:
        ConfigError: a prompt that is not text, token ids or messages made of these.
    """
    hasher = hashlib.sha256()
    for index, prompt in enumerate(prompts):
        text = _as_json(prompt, index)
        hasher.update(len(text).to_bytes(8, "little"))
        hasher.update(text.encode())
    return hasher.hexdigest()


def _as_json(prompt: Any, index: int) -> str:
    try:
        return json.dumps(prompt, sort_keys=True)
    except TypeError as error:
        raise ConfigError(
            f"prompts: number {index}: {error}; want text, token ids, or messages of text: a "
            "capture is joined to an interrupted one only where both were asked for the same"
        ) from error


def _list_problems(name: str, got: Any, known: Any, want: str) -> list[str]:
    if isinstance(got, str) or not isinstance(got, Sequence):
        return [f"{name}: got {got!r}, want a list of {want}"]
    wrong = [each for each in got if isinstance(each, bool) or each not in known]
    if wrong or not len(got):
        return [f"{name}: got {wrong if wrong else 'none'}, want a list of {want}"]
    return []


def _choice_problems(name: str, got: Any, known: Sequence[str]) -> list[str]:
    return [] if got in known else [f"{name}: got {got!r}, want one of {list(known)}"]


def _count_problems(name: str, got: Any, least: int) -> list[str]:
    if got is None or (isinstance(got, int) and not isinstance(got, bool) and got >= least):
        return []
    return [f"{name}: got {got!r}, want a whole number, at least {least}"]


def _token_problems(positions: str, max_tokens: int | None) -> list[str]:
    if positions in ("output", "all"):
        return _count_problems("max_tokens", max_tokens, 2 if positions == "output" else 1)
    if max_tokens is None:
        return []
    return [
        f"max_tokens: got {max_tokens!r} with positions={positions!r}, which end with the prompt: "
        "leave it out, or ask for positions 'output' or 'all'"
    ]


WANT = (
    "want a text, a list of token ids, a list of messages, or a list of prompts that are all of "
    "one of these forms"
)


def prompts_of(given: Any) -> tuple[list[Any], bool]:
    """A list of prompts, and whether they are conversations.

    Raises:
        ConfigError: a form that is not known, or several in one list.
    """
    if _form(given) is not None:
        given = [given]
    if not isinstance(given, list | tuple):
        raise ConfigError(f"prompts: got {type(given).__name__}, {WANT}")
    forms = [_form(each) for each in given]
    if None in forms:
        wrong = forms.index(None)
        raise ConfigError(f"prompts: number {wrong} is {given[wrong]!r:.80}, {WANT}")
    if len({form == "messages" for form in forms}) > 1:
        raise ConfigError(f"prompts: got conversations beside other prompts, {WANT}")
    prompts = [
        {"prompt_token_ids": list(each)} if form == "token ids" else each
        for each, form in zip(given, forms, strict=True)
    ]
    return prompts, "messages" in forms


def _form(prompt: Any) -> str | None:
    if isinstance(prompt, str):
        return "text"
    if isinstance(prompt, dict):
        return None if "role" in prompt else "vLLM's prompt"
    if not isinstance(prompt, list | tuple) or not prompt:
        return None
    if all(isinstance(each, int) and not isinstance(each, bool) for each in prompt):
        return "token ids"
    if all(isinstance(each, dict) and "role" in each for each in prompt):
        return "messages"
    return None
