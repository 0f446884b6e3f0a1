"""The model that a foreign file is imported for, as its config.json tells it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.model_types import is_same_architecture
from pilothouse.artifacts.vectors.reading import Reading
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, read_json, whole_number
from pilothouse.types import Site

MAX_CONFIG_BYTES = 4 << 20
ANOTHER = "import it for the model it was made on"


@dataclass(frozen=True, slots=True)
class Target:
    """What is known of the model. None: not known, so not compared."""

    model_id: str
    d_model: int | None = None
    layers: int | None = None
    model_types: tuple[str, ...] = ()
    """Of the whole model, and of the language model in it."""
    neurons: int | None = None
    heads_width: int | None = None

    def width_at(self, site: Site) -> int | None:
        """Elements of a token at a site, if known."""
        if site == "mlp_neurons":
            return self.neurons
        return self.heads_width if site == "attn_heads" else self.d_model


def target_of(model_id: str, d_model: int | None, config: Path | None) -> Target:
    """The model by its id, with what config.json adds.

    Raises:
        ArtefactError: config.json cannot be read, or says another d_model.
    """
    if config is None:
        return Target(model_id, d_model)
    raw = read_json(config, MAX_CONFIG_BYTES)
    text: dict[str, Any] = raw["text_config"] if isinstance(raw.get("text_config"), dict) else raw
    width = _number(config, text, "hidden_size", "n_embd")
    if d_model not in (None, width):
        refuse(
            config,
            "hidden_size",
            width,
            f"{d_model} as --d-model says",
            "leave --d-model out, or give the config of the model",
        )
    heads = _number(config, text, "num_attention_heads", "n_head")
    head_width = _number(config, text, "head_dim") or (width // heads if width and heads else None)
    return Target(
        model_id,
        width or d_model,
        layers=_number(config, text, "num_hidden_layers", "n_layer"),
        model_types=_model_types(raw, text),
        neurons=_number(config, text, "intermediate_size", "n_inner"),
        heads_width=head_width * heads if head_width and heads else None,
    )


def check_target(reading: Reading, target: Target) -> None:
    """Refuse numbers that are another model's: its type, its layers or its width.

    Raises:
        ArtefactError: names the file and the field.
    """
    place, hint = reading.place, reading.model_type
    known = target.model_types
    if hint and known and not any(is_same_architecture(hint, each) for each in known):
        refuse(
            place,
            "model type",
            repr(hint),
            f"{' or '.join(map(repr, known))} as {target.model_id} is",
            ANOTHER,
        )
    for layer, arrays in reading.layers.items():
        field = reading.fields[layer]
        if target.layers is not None and layer >= target.layers:
            refuse(
                place,
                field,
                f"layer {layer}",
                f"below {target.layers}, the model's layers",
                ANOTHER,
            )
        width = next(iter(arrays.values())).shape[-1]
        wanted = target.width_at(reading.site)
        if wanted is not None and width != wanted:
            refuse(
                place,
                field,
                f"width {width}",
                f"{wanted} as {target.model_id} has at {reading.site}",
                ANOTHER,
            )


def _model_types(*configs: dict[str, Any]) -> tuple[str, ...]:
    found = [str(each["model_type"]) for each in configs if each.get("model_type")]
    return tuple(dict.fromkeys(found))


def _number(place: Path, raw: dict[str, Any], *names: str) -> int | None:
    for name in names:
        if raw.get(name) is not None:
            value = whole_number(place, name, raw[name])
            if value == 0:
                refuse(place, name, 0, "a number from 1", FETCH_AGAIN)
            return value
    return None
