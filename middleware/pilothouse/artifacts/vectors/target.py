"""The model that a foreign file is imported for, as its config.json tells it.

An architecture has a name in transformers (`model_type`) and another in llama.cpp
(`general.architecture`). Writers of control vectors give either: repeng the former, llama.cpp's
own generator the latter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.reading import Reading
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, read_json, whole_number
from pilothouse.errors import argument
from pilothouse.types import Site

ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "arwkv7": ("rwkv_hybrid",),
    "bailingmoe": ("bailing_moe",),
    "bailingmoe2": ("bailing_moe", "bailing_moe_v2", "sarvam_moe"),
    "bert": ("distilbert", "roberta", "xlm-roberta", "camembert"),
    "chatglm": ("glm",),
    "codeshell": ("kclgpt",),
    "cohere2": ("cohere2_moe",),
    "command-r": ("cohere",),
    "deci": ("nemotron-nas", "deci_lm"),
    "deepseek2": (
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "kimi_k2",
        "kimi_vl",
        "youtu",
        "glm4_moe_lite",
    ),
    "deepseek2-ocr": ("deepseek_ocr", "deepseek_ocr2", "deepseek_ocr2_text", "deepseek_vl_v2"),
    "exaone4": ("exaone4_5",),
    "falcon": ("refinedweb", "refinedwebmodel"),
    "gemma-embedding": ("gemma3_text",),
    "gemma3": ("gemma3_text", "shieldgemma2"),
    "gemma3n": ("gemma3n_text",),
    "gemma4": ("gemma4_text", "gemma4_unified", "gemma4_unified_text"),
    "glm-dsa": ("glm_moe_dsa",),
    "glm4": ("glm4v", "glm4v_text", "glm46v", "glm_ocr", "glm_ocr_text"),
    "glm4moe": ("glm4v_moe", "glm4v_moe_text", "solar_open"),
    "gpt2": ("gpt-sw3", "rugpt3xl"),
    "granitehybrid": ("granitemoehybrid", "bamba"),
    "granitemoe": ("granitemoeshared",),
    "grok": ("grok-1", "grok1"),
    "hunyuan-dense": ("hunyuan_v1_dense", "hunyuan"),
    "hunyuan-moe": ("hunyuan_v1_moe", "hunyuan"),
    "hunyuan_vl": ("hunyuan_vl_text",),
    "jina-bert-v2": ("bert",),
    "jina-bert-v3": ("xlm-roberta", "jina_embeddings_v3"),
    "llama": ("mistral", "mixtral", "internlm3", "iquestcoder", "yi", "aquila"),
    "llama-embed": ("llama_bidirec",),
    "llama4": ("llama4_text",),
    "mamba": ("falcon_mamba",),
    "mimo2": ("mimo_v2_flash", "mimo_v2"),
    "mistral3": ("ministral3",),
    "nemotron_h_moe": ("nemotron_h",),
    "nomic-bert-moe": ("nomic_bert",),
    "olmo": ("hf_olmo",),
    "olmo2": ("olmo3",),
    "paddleocr": ("paddleocr_vl", "paddleocr_vl_text"),
    "phi2": ("phi", "phi-msft", "mixformer-sequential"),
    "qwen2": ("kormo", "dots_ocr"),
    "qwen2vl": (
        "qwen2_vl_text",
        "qwen2_5_vl",
        "qwen2_5_vl_text",
        "qwen2_5_omni",
        "qwen2_5_omni_thinker",
        "qwen2_5_omni_text",
    ),
    "qwen35": ("qwen3_5_text",),
    "qwen35moe": ("qwen3_5_moe_text",),
    "qwen3vl": ("qwen3_vl_text", "qwen3_asr"),
    "qwen3vlmoe": (
        "qwen3_vl_moe_text",
        "qwen3_omni_moe",
        "qwen3_omni_moe_thinker",
        "qwen3_omni_moe_text",
    ),
    "refact": ("gpt_refact",),
    "stablelm": ("stablelm_epoch",),
    "starcoder": ("gpt_bigcode",),
    "step35": ("step3p5", "step3p7"),
    "t5": ("mt5", "umt5"),
    "t5encoder": ("t5",),
}
"""The types that llama.cpp's converter writes as an architecture, by its name, where the two names
differ in more than case and separators. Types of a whole model stand beside those of the text model
in it.
"""
MAX_CONFIG_BYTES = 4 << 20
ANOTHER = "import it for the model it was made on"


def is_same_architecture(hint: str, model_type: str) -> bool:
    """Return whether a file's hint, in either naming, is a model's type."""
    named = _plain(hint)
    if named == _plain(model_type):
        return True
    return _plain(model_type) in _TYPES.get(named, ())


def _plain(name: str) -> str:
    return name.casefold().translate(str.maketrans("", "", "-_. "))


_TYPES = {_plain(each): set(map(_plain, types)) for each, types in ARCHITECTURES.items()}


@dataclass(frozen=True, slots=True)
class Target:
    """What is known of the model. None stands for what is not known, and so not compared."""

    model_id: str
    d_model: int | None = None
    layers: int | None = None
    model_types: tuple[str, ...] = ()
    """The types of the whole model and of the language model in it."""
    neurons: int | None = None
    heads_width: int | None = None

    def width_at(self, site: Site) -> int | None:
        """Return how many elements a token has at a site, if known."""
        if site == "mlp_neurons":
            return self.neurons
        return self.heads_width if site == "attn_heads" else self.d_model


def target_of(model_id: str, d_model: int | None, config: Path | None) -> Target:
    """Return the model by its id, with what config.json adds.

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
            f"{d_model} as {argument('d_model')} says",
            f"leave {argument('d_model')} out, or give the config of the model",
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
