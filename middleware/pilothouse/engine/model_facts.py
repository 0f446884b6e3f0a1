"""What a plan needs to know of a model, from its configuration alone; no weights are read."""

from __future__ import annotations

from argparse import Namespace

from pilothouse.engine.plan import ModelFacts
from pilothouse.engine.refusals import refuse_model
from pilothouse.errors import ConfigError


def model_facts(args: Namespace) -> ModelFacts:
    """Facts of the model that vLLM's arguments name.

    Raises:
        ConfigError: the configuration cannot be read.
        UnsupportedError: a kind of model that is refused.
    """
    from transformers import AutoConfig

    model = args.model
    try:
        config = AutoConfig.from_pretrained(
            getattr(args, "hf_config_path", None) or model,
            revision=getattr(args, "revision", None),
            trust_remote_code=bool(getattr(args, "trust_remote_code", False)),
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{model}: its configuration cannot be read: {str(error).splitlines()[0]} Give a "
            "folder with config.json, or a model name that this machine can reach"
        ) from error
    refuse_model(config)
    overrides = getattr(args, "hf_overrides", None)
    if isinstance(overrides, dict):
        config.update(overrides)
    text = config.get_text_config()
    return ModelFacts(model_id=model, num_layers=text.num_hidden_layers, d_model=text.hidden_size)
