"""How much memory a model's KV cache takes, from its configuration; no weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm.engine.arg_utils import EngineArgs
from vllm.utils.torch_utils import STR_DTYPE_TO_TORCH_DTYPE

from pilothouse.errors import ConfigError


@dataclass(frozen=True, slots=True)
class KvCacheSize:
    """`bytes_per_token` of the whole model; `max_tokens` of its context.

    `trained_tokens` is the context before it was stretched, which decides how some models rotate
    their positions: a shorter one than that is another model. 0 where it was not stretched.
    """

    bytes_per_token: int
    max_tokens: int
    trained_tokens: int


def kv_cache_size(model: str, settings: Mapping[str, object]) -> KvCacheSize:
    """Return what one token of a model holds in the KV cache.

    Args:
        model: as for vLLM.
        settings: arguments of vLLM's `LLM`.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    args = EngineArgs(model=model, **settings)
    try:
        config = args.create_model_config()
    except (ValueError, OSError) as error:
        raise ConfigError(f"{model}: configuration cannot be read: {error}") from error
    stored = STR_DTYPE_TO_TORCH_DTYPE.get(args.kv_cache_dtype, config.dtype)
    text = config.hf_text_config
    stretched = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    return KvCacheSize(
        bytes_per_token=2
        * int(text.num_hidden_layers)
        * int(config.get_total_num_kv_heads())
        * int(config.get_head_size())
        * int(stored.itemsize),
        max_tokens=int(config.max_model_len),
        trained_tokens=int(stretched.get("original_max_position_embeddings") or 0),
    )
