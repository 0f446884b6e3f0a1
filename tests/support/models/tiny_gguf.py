"""A small Llama with random weights in a GGUF file, as llama.cpp's converter would write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import dequantize, quantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CORPUS = "it was 1984 and the 12 clocks were striking 13 when the boats came in, isn't it so? "
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tiny_tokenizer() -> Tokenizer:
    """Byte-level BPE that takes each digit alone."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        [CORPUS] * 4,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=list(SPECIALS),
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return made


def write_tiny_gguf(path: Path) -> LlamaForCausalLM:
    """Write the file, and return the model that it holds, with its weights as rounded there."""
    torch.manual_seed(7)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        rope_parameters={"rope_theta": 100000.0, "rope_type": "default"},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    writer = GGUFWriter(path, "llama")
    _write_metadata(writer, config, tokenizer)
    state = model.state_dict()
    for name, tensor in state.items():
        if name == "lm_head.weight":
            continue
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
        rounded = _add(writer, name, tensor.numpy().copy(), config)
        tensor.copy_(torch.from_numpy(rounded))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _write_metadata(writer: GGUFWriter, config: LlamaConfig, tokenizer: Tokenizer) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    described: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(described["vocab"], key=described["vocab"].__getitem__)
    kinds = [TokenType.CONTROL if each in SPECIALS else TokenType.NORMAL for each in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(each) for each in described["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)


def _add(
    writer: GGUFWriter, name: str, weight: np.ndarray[Any, Any], config: LlamaConfig
) -> np.ndarray[Any, Any]:
    """Add one tensor; return it as the file rounds it, in transformers' order of rows."""
    inner = name.removeprefix("model.").removesuffix(".weight")
    if inner in ("embed_tokens", "norm"):
        written = {"embed_tokens": "token_embd", "norm": "output_norm"}[inner]
    else:
        _, number, kind = inner.split(".", 2)
        written = f"blk.{number}.{NAMES[kind]}"
    heads = {
        "attn_q": config.num_attention_heads,
        "attn_k": config.num_key_value_heads,
    }.get(written.rpartition(".")[2])
    # llama.cpp's order: the two halves of a head, dimension by dimension in turn.
    placed = weight
    if heads:
        half = weight.shape[0] // heads // 2
        placed = weight.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)
    if weight.ndim == 1:
        writer.add_tensor(f"{written}.weight", placed)
        return weight
    kind = GGMLQuantizationType.Q8_0 if inner == "embed_tokens" else GGMLQuantizationType.Q4_1
    writer.add_tensor(f"{written}.weight", quantize(placed, kind), raw_dtype=kind)
    return dequantize(quantize(weight, kind), kind)
