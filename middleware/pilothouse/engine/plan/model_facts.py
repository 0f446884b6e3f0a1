"""What a plan needs to know of a model, from its configuration alone; no weights are read."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from pilothouse.engine.plan.spec import ModelFacts
from pilothouse.engine.unsupported_flags import refuse_model
from pilothouse.errors import ConfigError
from pilothouse.types import Site

if TYPE_CHECKING:
    from transformers import PretrainedConfig

NEURON_FIELDS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
"""What configurations call the MLP's hidden size."""


def model_facts(args: Namespace) -> ModelFacts:
    """Return facts of the model that vLLM's arguments name.

    Raises:
        ConfigError: the configuration cannot be read.
        UnsupportedError: a kind of model that is refused.
    """
    config = read_configuration(args)
    refuse_model(config)
    overrides = getattr(args, "hf_overrides", None)
    if isinstance(overrides, dict):
        config.update(overrides)
    text = config.get_text_config()
    return ModelFacts(
        model_id=args.model,
        num_layers=text.num_hidden_layers,
        d_model=text.hidden_size,
        projection_widths=projection_widths(text),
    )


def read_configuration(args: Namespace) -> PretrainedConfig:
    """Return the configuration, transformers' own class, of the model that vLLM's arguments name.

    Raises:
        ConfigError: it cannot be read.
    """
    from transformers import AutoConfig

    model = args.model
    try:
        return AutoConfig.from_pretrained(
            getattr(args, "hf_config_path", None) or model,
            revision=getattr(args, "revision", None),
            trust_remote_code=bool(getattr(args, "trust_remote_code", False)),
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{model}: its configuration cannot be read: {str(error).splitlines()[0]} Give a "
            "folder with config.json, or a model name that this machine can reach"
        ) from error


def projection_widths(text: PretrainedConfig) -> dict[Site, int]:
    """Return widths at the projections' inputs, of those that a text configuration tells."""
    heads = getattr(text, "num_attention_heads", None)
    size = getattr(text, "v_head_dim", None) or getattr(text, "head_dim", None)
    found: dict[Site, int] = {}
    if isinstance(heads, int):
        found["attn_heads"] = heads * (size or text.hidden_size // heads)
    for name in NEURON_FIELDS:
        width = getattr(text, name, None)
        if isinstance(width, int):
            found["mlp_neurons"] = width
            break
    return found
