"""Chat templates of the common families and tokenizers that are theirs in what matters here.

Markers of turns are tokens of their own, or ordinary text where the family writes them so; the
rest is a byte-level vocabulary without merges but for the names of roles and line breaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

MERGED = ("user", "assistant", "system", "model", "tool", "INST", "Human", "\u010a\u010a")
"""\u010a is a byte-level vocabulary's line break."""


@dataclass(frozen=True)
class Family:
    """A template, its own tokens, and how an assistant's turn opens in it."""

    template: str
    own: tuple[str, ...]
    opening: str
    """As the generation prompt has it, or what stands for one."""
    core: str
    user: str = ""
    system: str = ""
    heading: str = ""


def tokenizer_of(family: Family) -> PreTrainedTokenizerFast:
    """A real tokenizer with the family's template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {each: i for i, each in enumerate(alphabet)}
    merges = []
    for word in MERGED:
        for i in range(1, len(word)):
            piece = word[: i + 1]
            if piece not in vocab:
                vocab[piece] = len(vocab)
                merges.append((word[:i], word[i]))
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(each, special=True) for each in family.own])
    made = PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False)
    made.chat_template = family.template
    return made


def rendered(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Mapping[str, Any]], generate: bool
) -> list[int]:
    """Token ids of a conversation, as vLLM makes them."""
    text = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=generate
    )
    return tokenizer.encode(text, add_special_tokens=False)


_CHATML = (
    "{%- for m in messages -%}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
_CHATML_DEFAULT_SYSTEM = (
    "{%- if messages[0].role != 'system' -%}"
    "{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{%- endif -%}" + _CHATML
)
_THINKING = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.role == 'assistant' and loop.last -%}{{ '<think>\n\n</think>\n\n' }}{%- endif -%}"
    "{{ m.content + '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n<think>\n' }}{%- endif -%}"
)
_LLAMA3 = (
    "{{ '<|begin_of_text|>' }}"
    "{%- if messages[0].role == 'system' -%}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul\n\n' + messages[0].content }}"
    "{{ '<|eot_id|>' }}{%- set messages = messages[1:] -%}{%- endif -%}"
    "{%- for m in messages -%}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim }}"
    "{{ '<|eot_id|>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%}"
)
_LLAMA2 = (
    "{%- if messages[0].role == 'system' -%}"
    "{%- set system = messages[0].content -%}{%- set messages = messages[1:] -%}{%- endif -%}"
    "{%- for m in messages -%}"
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('roles must alternate') }}{%- endif -%}"
    "{%- if m.role == 'user' -%}{{ '<s>[INST] ' }}"
    "{%- if loop.index0 == 0 and system -%}{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}"
    "{%- endif -%}{{ m.content | trim + ' [/INST]' }}"
    "{%- else -%}{{ ' ' + m.content | trim + ' </s>' }}{%- endif -%}{%- endfor -%}"
)
_GEMMA = (
    "{{ '<bos>' }}{%- if messages[0].role == 'system' -%}"
    "{{ raise_exception('System role not supported') }}{%- endif -%}"
    "{%- for m in messages -%}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ m.content | trim + '<end_of_turn>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
_PHI = (
    "{%- for m in messages -%}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>\n' }}{%- endif -%}"
)
_PLAIN = (
    "{%- for m in messages -%}"
    "{{ ('Human: ' if m.role == 'user' else 'assistant: ') + m.content + '\n\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'assistant:' }}{%- endif -%}"
)
_CHATML_OWN = ("<|im_start|>", "<|im_end|>")
_CHATML_PARTS = {
    "opening": "<|im_start|>assistant\n",
    "core": "<|im_start|>assistant",
    "user": "<|im_start|>user",
    "system": "<|im_start|>system",
    "heading": "<|im_start|>",
}

FAMILIES: dict[str, Family] = {
    "demo": Family(
        "{%- for m in messages -%}{%- if m.role not in ['system', 'user', 'assistant'] -%}"
        "{{ raise_exception('no role ' ~ m.role) }}{%- endif -%}"
        "{{ '<|' ~ m.role ~ '|>' ~ (m.content | trim) ~ '<|end|>' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|assistant|>",
        "<|assistant|>",
        "<|user|>",
        "<|system|>",
    ),
    "chatml": Family(_CHATML, _CHATML_OWN, **_CHATML_PARTS),
    "chatml-default-system": Family(_CHATML_DEFAULT_SYSTEM, _CHATML_OWN, **_CHATML_PARTS),
    "qwen3-thinking": Family(
        _THINKING,
        (*_CHATML_OWN, "<think>", "</think>"),
        **(_CHATML_PARTS | {"opening": "<|im_start|>assistant\n<think>\n"}),
    ),
    "llama3": Family(
        _LLAMA3,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|start_header_id|>assistant<|end_header_id|>",
        "<|start_header_id|>user<|end_header_id|>",
        "<|start_header_id|>system<|end_header_id|>",
        "<|start_header_id|>",
    ),
    "llama2": Family(_LLAMA2, ("<s>", "</s>"), "[/INST]", "[/INST]", "<s>[INST]"),
    "gemma": Family(
        _GEMMA,
        ("<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<start_of_turn>model\n",
        "<start_of_turn>model",
        "<start_of_turn>user",
        "",
        "<start_of_turn>",
    ),
    "phi": Family(
        _PHI,
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|assistant|>\n",
        "<|assistant|>",
        "<|user|>",
        "<|system|>",
    ),
    "plain": Family(_PLAIN, (), "assistant:", "assistant:", "Human:"),
}
