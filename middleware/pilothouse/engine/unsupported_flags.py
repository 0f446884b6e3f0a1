"""Settings of the server that are refused while Pilothouse is on, each with its reason.

One table, read twice: before the start on what vLLM's parser made of flags and `--config` files, so
that the answer comes at once and names the flag; and in every worker, before it loads weights, on
the configuration that vLLM resolved from all of that, the environment and the model, so that no
other spelling of a setting gets round its refusal. `docs/reference/flags.md` lists the table.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pilothouse.engine.vllm.version import is_at_least
from pilothouse.errors import UnsupportedError

OURS = "this is how Pilothouse gets into the engine"
UNSEEN = "it opens a door the gate does not see"
DRAFT_METHODS = ("ngram", "draft_model")
"""Ways of speculative decoding that the tests run."""
SPLIT = "positions of a step do not lie on one rank in order"
EMBEDDINGS = "embeddings from a client pass every text check"
EARLY_EXPERTS = "experts of held tokens would leave before them"


@dataclass(frozen=True, slots=True)
class Refusal:
    """`applies(value)` says whether a setting's value is one that is refused."""

    flag: str
    attribute: str
    """Of vLLM's parsed arguments."""
    applies: Callable[[object], bool]
    reason: str
    resolved: str | None = None
    """Where the resolved configuration has it; None for what is the API server's alone, or ours."""
    since: str = "0.0"
    """The first minor version of vLLM that has it."""


def _set(value: object) -> bool:
    return bool(value)


def _above_one(value: object) -> bool:
    return isinstance(value, int) and value > 1


def _within(value: object, name: str) -> object:
    """Return a setting inside a group of them, which may have been parsed already or not."""
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _is_untested_method(value: object) -> bool:
    return value is not None and value not in DRAFT_METHODS


def _drafts_untested(value: object) -> bool:
    if value is None or getattr(value, "method", None) == "custom_class":
        # A proposer in the operator's own code, which no flag names: the tests draft by one.
        return False
    accepting = _within(value, "rejection_sample_method") or "standard"
    return _is_untested_method(_within(value, "method") or "") or accepting != "standard"


REFUSALS: tuple[Refusal, ...] = (
    Refusal("--worker-cls", "worker_cls", lambda v: v not in (None, "auto"), OURS),
    Refusal(
        "--worker-extension-cls",
        "worker_extension_cls",
        _set,
        "its side effects on the worker are unknown",
        "parallel_config.worker_extension_cls",
    ),
    Refusal("--scheduler-cls", "scheduler_cls", _set, OURS),
    Refusal(
        "--runner",
        "runner",
        lambda v: v in ("pooling", "draft"),
        "only generating models are governed",
        "model_config.runner_type",
    ),
    Refusal("--grpc", "grpc", _set, UNSEEN),
    Refusal("--headless", "headless", _set, "a remote engine gets no key to check seals with"),
    Refusal(
        "--data-parallel-size",
        "data_parallel_size",
        _above_one,
        "not tested: dummy steps of idle ranks",
        "parallel_config.data_parallel_size",
    ),
    Refusal(
        "--prefill-context-parallel-size",
        "prefill_context_parallel_size",
        _above_one,
        SPLIT,
        "parallel_config.prefill_context_parallel_size",
    ),
    Refusal(
        "--decode-context-parallel-size",
        "decode_context_parallel_size",
        _above_one,
        SPLIT,
        "parallel_config.decode_context_parallel_size",
    ),
    Refusal("--enable-dbo", "enable_dbo", _set, SPLIT, "parallel_config.enable_dbo"),
    Refusal("--ubatch-size", "ubatch_size", _above_one, SPLIT, "parallel_config.ubatch_size"),
    Refusal(
        "--enable-hc-sp", "enable_hc_sp", _set, SPLIT, "parallel_config.enable_hc_sp", since="0.32"
    ),
    Refusal(
        "--speculative-config",
        "speculative_config",
        _drafts_untested,
        f"tested are the methods {' and '.join(DRAFT_METHODS)}, named as `method`, with "
        "`rejection_sample_method: standard`",
        "speculative_config",
    ),
    Refusal(
        "--spec-method",
        "spec_method",
        _is_untested_method,
        f"tested are the methods {' and '.join(DRAFT_METHODS)}",
    ),
    Refusal(
        "--spec-model", "spec_model", _set, "the method must be named: use --speculative-config"
    ),
    Refusal(
        "--kv-transfer-config",
        "kv_transfer_config",
        _set,
        "tokens whose KV comes from elsewhere are not scored, and edited KV could leave",
        "kv_transfer_config",
    ),
    Refusal(
        "--kv-events-config",
        "kv_events_config",
        lambda v: bool(_within(v, "enable_kv_cache_events")),
        "events publish prompts unseen",
        "kv_events_config",
    ),
    Refusal(
        "--ec-transfer-config",
        "ec_transfer_config",
        _set,
        "encoder transfer is not tested",
        "ec_transfer_config",
    ),
    Refusal(
        "--kv-offloading-size",
        "kv_offloading_size",
        _set,
        "offloaded KV may be keyed by tokens alone",
        "cache_config.kv_offloading_size",
    ),
    Refusal(
        "--attention-config",
        "attention_config",
        lambda v: _within(v, "hisparse_config") is not None,
        "`hisparse_config` keeps KV on the host, which is not tested",
        "attention_config",
    ),
    Refusal(
        "--kv-sharing-fast-prefill",
        "kv_sharing_fast_prefill",
        _set,
        "layers skip positions of the prompt that probes read",
        "cache_config.kv_sharing_fast_prefill",
    ),
    Refusal(
        "--enable-prompt-embeds",
        "enable_prompt_embeds",
        _set,
        EMBEDDINGS,
        "model_config.enable_prompt_embeds",
    ),
    Refusal(
        "--enable-mm-embeds",
        "enable_mm_embeds",
        _set,
        EMBEDDINGS,
        "model_config.multimodal_config.enable_mm_embeds",
    ),
    Refusal("--enable-return-routed-experts", "enable_return_routed_experts", _set, EARLY_EXPERTS),
    Refusal(
        "--aux-output-config",
        "aux_output_config",
        lambda v: bool(_within(v, "enable_return_routed_experts")),
        EARLY_EXPERTS,
        "aux_output_config",
    ),
    Refusal(
        "--return-sampling-mask",
        "return_sampling_mask",
        _set,
        "what else could have stood in the place of held tokens would leave before them",
        "model_config.return_sampling_mask",
    ),
    Refusal(
        "--trust-request-chat-template",
        "trust_request_chat_template",
        _set,
        "a client's template could dress up any text as another role's",
    ),
    Refusal(
        "--root-path",
        "root_path",
        lambda v: isinstance(v, str) and v.endswith("/"),
        "a slash at its end makes vLLM ask no API key or find no route; want /llm, not /llm/",
    ),
    Refusal(
        "--enable-sleep-mode",
        "enable_sleep_mode",
        _set,
        "not tested",
        "model_config.enable_sleep_mode",
    ),
    Refusal(
        "--diffusion-config",
        "diffusion_config",
        _set,
        "diffusion models need a scheduler of their own",
        "diffusion_config",
    ),
)

_STAGES, _RANKS = "--pipeline-parallel-size", "--tensor-parallel-size"
_DRAFTS, _ADAPTERS = "--speculative-config", "--enable-lora"
UNTESTED_TOGETHER: tuple[tuple[str, str], ...] = (
    (_STAGES, _RANKS),
    (_STAGES, _DRAFTS),
    (_STAGES, _ADAPTERS),
    (_DRAFTS, _ADAPTERS),
)
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
    problems += _untested_together(_features(args))
    for variable, reason in REFUSED_VARIABLES.items():
        if os.environ.get(variable, "0") not in ("", "0", "false", "False"):
            problems.append(f"{variable} is refused with Pilothouse: {reason}. Unset it")
    if problems:
        raise UnsupportedError("\n".join(problems))


def refuse_resolved(config: object) -> None:
    """Stop a start whose resolved configuration could not be guarded, however it came about.

    Args:
        config: vLLM's.

    Raises:
        UnsupportedError: one line for each setting that is refused.
    """
    problems = []
    for refusal in REFUSALS:
        path = refusal.resolved if is_at_least(refusal.since) else None
        found = resolved_value(config, path) if path else None
        if refusal.applies(found):
            problems.append(
                f"{refusal.flag}: vLLM's configuration has {refusal.resolved} = {found!r}, which "
                f"is refused with Pilothouse: {refusal.reason}. Take out what sets it: a flag, a "
                "group of settings in JSON, a variable of the environment, or the model"
            )
    kinds = {
        _STAGES: _above_one(resolved_value(config, "parallel_config.pipeline_parallel_size")),
        _RANKS: _above_one(resolved_value(config, "parallel_config.tensor_parallel_size")),
        _DRAFTS: resolved_value(config, "speculative_config") is not None,
        _ADAPTERS: resolved_value(config, "lora_config") is not None,
    }
    problems += _untested_together({name for name, used in kinds.items() if used})
    if problems:
        raise UnsupportedError("\n".join(problems))
    refuse_model(resolved_value(config, "model_config.hf_config"))


def resolved_value(config: object, path: str) -> object:
    """Return what a dotted path leads to; None where a group of settings is not there."""
    value: object = config
    for name in path.split("."):
        value = None if value is None else getattr(value, name)
    return value


def _untested_together(used: set[str]) -> list[str]:
    return [
        f"{one} together with {other} is refused with Pilothouse: each alone is tested, both are "
        "not. Remove one of the two"
        for one, other in UNTESTED_TOGETHER
        if one in used and other in used
    ]


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
        UnsupportedError: encoder-decoder and diffusion models.
    """
    if getattr(hf_config, "is_encoder_decoder", False):
        raise UnsupportedError(
            "encoder-decoder models are refused with Pilothouse: taps know decoder blocks only"
        )
    if getattr(hf_config, "canvas_length", None) is not None:
        raise UnsupportedError(
            "diffusion models are refused with Pilothouse: they write an answer in no order"
        )
