"""Settings of the server that are refused while Pilothouse is on, each with its reason.

One table: `attribute of vLLM's parsed arguments -> what is wrong, when`. `docs/flags.md` lists it.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pilothouse.errors import UnsupportedError

OURS = "this is how Pilothouse gets into the engine"
UNSEEN = "it opens a door the gate does not see"
DRAFT_METHODS = ("ngram", "draft_model")
"""Ways of speculative decoding that the tests run."""
SPLIT = "positions of a step do not lie on one rank in order"


@dataclass(frozen=True, slots=True)
class Refusal:
    """`applies(value)` says whether a flag's value is one that is refused."""

    flag: str
    attribute: str
    applies: Callable[[object], bool]
    reason: str


def _set(value: object) -> bool:
    return bool(value)


def _above_one(value: object) -> bool:
    return isinstance(value, int) and value > 1


def _is_untested_method(value: object) -> bool:
    method = value.get("method") if isinstance(value, Mapping) else value
    return value is not None and method not in DRAFT_METHODS


REFUSALS: tuple[Refusal, ...] = (
    Refusal("--worker-cls", "worker_cls", lambda v: v not in (None, "auto"), OURS),
    Refusal("--worker-extension-cls", "worker_extension_cls", _set, "its side effects on the "
            "worker are unknown"),
    Refusal("--scheduler-cls", "scheduler_cls", _set, OURS),
    Refusal("--runner", "runner", lambda v: v in ("pooling", "draft"),
            "only generating models are governed"),
    Refusal("--grpc", "grpc", _set, UNSEEN),
    Refusal("--headless", "headless", _set, "a remote engine gets no key to check seals with"),
    Refusal("--data-parallel-size", "data_parallel_size", _above_one,
            "not tested: dummy steps of idle ranks"),
    Refusal("--prefill-context-parallel-size", "prefill_context_parallel_size", _above_one, SPLIT),
    Refusal("--decode-context-parallel-size", "decode_context_parallel_size", _above_one, SPLIT),
    Refusal("--enable-dbo", "enable_dbo", _set, SPLIT),
    Refusal("--ubatch-size", "ubatch_size", _above_one, SPLIT),
    Refusal("--speculative-config", "speculative_config", _is_untested_method,
            f"tested are the methods {' and '.join(DRAFT_METHODS)}, named as `method`"),
    Refusal("--spec-method", "spec_method", _is_untested_method,
            f"tested are the methods {' and '.join(DRAFT_METHODS)}"),
    Refusal("--spec-model", "spec_model", _set,
            "the method must be named: use --speculative-config"),
    Refusal("--kv-transfer-config", "kv_transfer_config", _set,
            "tokens whose KV comes from elsewhere are not scored, and edited KV could leave"),
    Refusal("--kv-events-config", "kv_events_config", _set, "events publish prompts unseen"),
    Refusal("--ec-transfer-config", "ec_transfer_config", _set, "encoder transfer is not tested"),
    Refusal("--kv-offloading-size", "kv_offloading_size", _set,
            "offloaded KV may be keyed by tokens alone"),
    Refusal("--enable-prompt-embeds", "enable_prompt_embeds", _set,
            "embeddings from a client pass every text check"),
    Refusal("--enable-return-routed-experts", "enable_return_routed_experts", _set,
            "experts of held tokens would leave before them"),
    Refusal("--trust-request-chat-template", "trust_request_chat_template", _set,
            "a client's template could dress up any text as another role's"),
    Refusal("--enable-sleep-mode", "enable_sleep_mode", _set, "not tested"),
)  # fmt: skip

_STAGES, _RANKS = "--pipeline-parallel-size", "--tensor-parallel-size"
_DRAFTS, _ADAPTERS = "--speculative-config", "--enable-lora"
UNTESTED_TOGETHER: tuple[tuple[str, str], ...] = (
    (_STAGES, _RANKS), (_STAGES, _DRAFTS), (_STAGES, _ADAPTERS), (_DRAFTS, _ADAPTERS),
)  # fmt: skip
"""Pairs of flags of which each alone is tested."""

REFUSED_VARIABLES: dict[str, str] = {
    "VLLM_SERVER_DEV_MODE": UNSEEN,
    "VLLM_USE_RUST_FRONTEND": "the gate is Python middleware",
}


def refuse_settings(args: Namespace) -> None:
    """Stop a start that could not be guarded.

    Raises:
        UnsupportedError: one line for each refused flag or variable.
    """
    problems = []
    for refusal in REFUSALS:
        value = getattr(args, refusal.attribute, None)
        if refusal.applies(value):
            problems.append(
                f"{refusal.flag} (got {value!r}) is refused with Pilothouse: {refusal.reason}. "
                "Remove the flag, or serve this model with plain `vllm serve`"
            )
    used = _features(args)
    problems += [
        f"{one} together with {other} is refused with Pilothouse: each alone is tested, both are "
        "not. Remove one of the two"
        for one, other in UNTESTED_TOGETHER
        if one in used and other in used
    ]
    for variable, reason in REFUSED_VARIABLES.items():
        if os.environ.get(variable, "0") not in ("", "0", "false", "False"):
            problems.append(f"{variable} is refused with Pilothouse: {reason}. Unset it")
    if problems:
        raise UnsupportedError("\n".join(problems))


def _features(args: Namespace) -> set[str]:
    def given(*names: str) -> bool:
        return any(getattr(args, name, None) for name in names)

    found = {
        _STAGES: _above_one(getattr(args, "pipeline_parallel_size", None)),
        _RANKS: _above_one(getattr(args, "tensor_parallel_size", None)),
        _DRAFTS: given("speculative_config", "spec_method"),
        _ADAPTERS: given("enable_lora"),
    }
    return {name for name, used in found.items() if used}


def refuse_model(hf_config: object) -> None:
    """Stop a start with a kind of model that is not right yet.

    Raises:
        UnsupportedError: encoder-decoder models.
    """
    if getattr(hf_config, "is_encoder_decoder", False):
        raise UnsupportedError(
            "encoder-decoder models are refused with Pilothouse: taps know decoder blocks only"
        )
