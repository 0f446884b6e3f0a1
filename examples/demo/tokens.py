"""The demo's tokenizer: lower-case byte-level BPE, trained on the `train` split alone."""

from __future__ import annotations

import random

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import facts
from deeds import OBJECTS, OWNERS, TOOLS, VERBS
from lessons import draw_lesson
from pages import CODES

VOCABULARY = 1536
PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{ raise_exception('no role ' ~ message['role'] ~ '; want system, user or assistant') }}"
    "{%- endif -%}"
    "{{ '<|' ~ message['role'] ~ '|>' ~ (message['content'] | trim) ~ '<|end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


def corpus(count: int) -> list[str]:
    """Lessons, and each word of the world often enough to become one token."""
    rng = random.Random("tokenizer")
    lines = [m["content"] for _ in range(count) for m in draw_lesson(rng).messages()]
    words = [*VERBS, *OBJECTS, *OWNERS, *TOOLS, *CODES]
    words += [value for values in facts.VALUES.values() for value in values]
    return lines + [f" {word}" for word in words for _ in range(count // 20)]


def dress(core: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer with its chat template and special tokens."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def train_tokenizer(count: int = 6000) -> PreTrainedTokenizerFast:
    """Train the BPE on the corpus."""
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " ")]
    )
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END, SYSTEM, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus(count), trainer)
    return dress(core)
