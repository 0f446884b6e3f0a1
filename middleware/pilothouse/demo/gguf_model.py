"""Reads a Llama model out of a GGUF file: configuration and weights, as transformers has them.

The file's quantised blocks are multiplied out in float32, which holds every one of their values
but for the last rounding of one product and one sum. llama.cpp rotates neighbouring dimensions of
a head where transformers rotates its two halves, so it wrote the rows of Q and K in another
order; that order is undone here. Its norms are stored as they are.

Suffixes: V vocabulary, D width of the stream, H heads, R rows, C columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf.gguf_reader import GGUFReader, ReaderTensor
from gguf.quants import dequantize
from numpy.typing import NDArray

from pilothouse.errors import ArtefactError

ARCHITECTURE: Final = "llama"

TENSORS: Final[Mapping[str, str]] = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_TENSORS: Final[Mapping[str, str]] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LAYER_TENSOR: Final = re.compile(r"blk\.(\d+)\.(\w+)\.weight")

Weights = dict[str, NDArray[np.float32]]


def open_gguf(path: Path) -> GGUFReader:
    """Open a GGUF file of a Llama model.

    Raises:
        ArtefactError: it is another file, or a model of another architecture.
    """
    try:
        reader = GGUFReader(path)
    except (ValueError, KeyError, IndexError) as error:
        raise ArtefactError(f"{path}: got {error}, want a GGUF file: fetch it again") from error
    found = value(reader, "general.architecture")
    if found != ARCHITECTURE:
        raise ArtefactError(
            f"{path}: general.architecture: got {found!r}, want {ARCHITECTURE!r}: only that "
            "architecture can be written out"
        )
    return reader


def value(reader: GGUFReader, key: str) -> Any:
    """Return a field's value: a number, a text or a list of either.

    Raises:
        ArtefactError: the file has no such field.
    """
    field = reader.get_field(key)
    if field is None:
        raise ArtefactError(f"GGUF: {key}: got nothing, want a value: fetch the file again")
    return field.contents()


def config_of(reader: GGUFReader) -> dict[str, Any]:
    """Return what `config.json` says of the model.

    Raises:
        ArtefactError: the file leaves something of it open.
    """

    def of(key: str) -> Any:
        return value(reader, f"{ARCHITECTURE}.{key}")

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": value(reader, "tokenizer.ggml.bos_token_id"),
        "dtype": "float32",
        "eos_token_id": value(reader, "tokenizer.ggml.eos_token_id"),
        "head_dim": of("rope.dimension_count"),
        "hidden_act": "silu",
        "hidden_size": of("embedding_length"),
        "initializer_range": 0.02,
        "intermediate_size": of("feed_forward_length"),
        "max_position_embeddings": of("context_length"),
        "mlp_bias": False,
        "num_attention_heads": of("attention.head_count"),
        "num_hidden_layers": of("block_count"),
        "num_key_value_heads": of("attention.head_count_kv"),
        "pad_token_id": value(reader, "tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": _shortest(of("attention.layer_norm_rms_epsilon")),
        "rope_parameters": {"rope_theta": _shortest(of("rope.freq_base")), "rope_type": "default"},
        "tie_word_embeddings": all(each.name != "output.weight" for each in reader.tensors),
        "use_cache": True,
        "vocab_size": len(value(reader, "tokenizer.ggml.tokens")),
    }


def weights_of(
    reader: GGUFReader, config: Mapping[str, Any], advance: Callable[[int], None]
) -> Weights:
    """Return the weights by transformers' names, in float32.

    Args:
        reader: the file.
        config: what `config_of` says of it.
        advance: called with 1 for each tensor.

    Raises:
        ArtefactError: a tensor is missing or unknown, or has another shape.
    """
    made: Weights = {}
    heads = {
        "attn_q": int(config["num_attention_heads"]),
        "attn_k": int(config["num_key_value_heads"]),
    }
    for tensor in reader.tensors:
        name, kind = _renamed(tensor.name)
        weight = _dequantised(tensor)
        if kind in heads:
            weight = in_halves(weight, heads[kind])
        made[name] = np.ascontiguousarray(weight, dtype=np.float32)
        advance(1)
    _check(made, config)
    return made


def in_halves(rows_RC: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Return the rows of Q or K with each head's rotated pairs as two halves again."""
    num_rows, width = rows_RC.shape
    pairs_HPTC = rows_RC.reshape(num_heads, num_rows // num_heads // 2, 2, width)
    return pairs_HPTC.transpose(0, 2, 1, 3).reshape(num_rows, width)


def _dequantised(tensor: ReaderTensor) -> NDArray[np.float32]:
    shape = tuple(int(each) for each in reversed(tensor.shape.tolist()))
    return np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32).reshape(shape)


def _renamed(name: str) -> tuple[str, str]:
    """Return transformers' name of a tensor, and its kind where it is one of a layer's."""
    found = LAYER_TENSOR.fullmatch(name)
    if found and found[2] in LAYER_TENSORS:
        return f"model.layers.{found[1]}.{LAYER_TENSORS[found[2]]}.weight", found[2]
    if name in TENSORS:
        return TENSORS[name], ""
    raise ArtefactError(f"GGUF: got tensor {name[:64]!r}, want those of a Llama model alone")


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that a model so configured has."""
    width, inner, head = (config[each] for each in ("hidden_size", "intermediate_size", "head_dim"))
    queries = config["num_attention_heads"] * head
    keys = config["num_key_value_heads"] * head
    layer = {
        "attn_norm": (width,),
        "ffn_norm": (width,),
        "attn_q": (queries, width),
        "attn_k": (keys, width),
        "attn_v": (keys, width),
        "attn_output": (width, queries),
        "ffn_gate": (inner, width),
        "ffn_up": (inner, width),
        "ffn_down": (width, inner),
    }
    shapes = {
        f"model.layers.{number}.{LAYER_TENSORS[kind]}.weight": shape
        for number in range(config["num_hidden_layers"])
        for kind, shape in layer.items()
    }
    vocabulary = (config["vocab_size"], width)
    shapes |= {"model.embed_tokens.weight": vocabulary, "model.norm.weight": (width,)}
    return shapes if config["tie_word_embeddings"] else shapes | {"lm_head.weight": vocabulary}


def _check(made: Weights, config: Mapping[str, Any]) -> None:
    got, want = {name: each.shape for name, each in made.items()}, _shapes(config)
    for name in sorted(got.keys() | want.keys()):
        if got.get(name) != want.get(name):
            raise ArtefactError(
                f"GGUF: {name}: got {got.get(name, 'nothing')}, want {want.get(name, 'nothing')}"
            )


def _shortest(number: float) -> float:
    """Return the shortest decimal that is this float32: 1e-05 and not 9.99999974e-06."""
    return float(str(np.float32(number)))
