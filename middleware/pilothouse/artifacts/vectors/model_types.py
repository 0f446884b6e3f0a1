"""One architecture's name in transformers (`model_type`) and in llama.cpp (`general.architecture`).

Writers of control vectors give either: repeng the former, llama.cpp's own generator the latter.
"""

from __future__ import annotations

from collections.abc import Mapping

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
"""By llama.cpp's architecture the types that its converter writes as it, where the two names differ
in more than case and separators. Types of a whole model stand beside those of the text model in it.
"""


def is_same_architecture(hint: str, model_type: str) -> bool:
    """Whether a file's hint, in either naming, is a model's type."""
    named = _plain(hint)
    if named == _plain(model_type):
        return True
    return _plain(model_type) in _TYPES.get(named, ())


def _plain(name: str) -> str:
    return name.casefold().translate(str.maketrans("", "", "-_. "))


_TYPES = {_plain(each): set(map(_plain, types)) for each, types in ARCHITECTURES.items()}
