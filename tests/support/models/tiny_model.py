"""A random-weight Qwen3 with a real tokenizer and chat template, made in a second.

Its words are noise, but greedy decoding is the same each time and never reaches the end token, so
that lengths are what `max_tokens` says.
"""

from __future__ import annotations

from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
D_MODEL = 128
NUM_LAYERS = 4
MAX_TOKENS = 1024
_CORPUS = (
    "the harbour opens at dawn and the boats leave with the tide while the keeper of the light "
    "writes the names of the ships and the hour of each in a long book by the window where "
    "visitors ask about the weather and how far the island lies from the coast today "
)


def make_tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """Write model, tokenizer and template to `folder`, and return it."""
    tiny_tokenizer().save_pretrained(folder)
    _model(seed).save_pretrained(folder)
    return folder


def tiny_tokenizer():  # type: ignore[no-untyped-def]
    """Byte-level BPE of 400 tokens with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([_CORPUS] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<|pad|>", eos_token="<|end|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _model(seed: int):  # type: ignore[no-untyped-def]
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=512,
        hidden_size=D_MODEL,
        intermediate_size=256,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=False,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config).to(torch.float32)
    words = [
        index
        for text, index in tokenizer.get_vocab().items()
        if len(text) > 1 and text not in SPECIALS
    ]
    silent = torch.ones(config.vocab_size, dtype=torch.bool)
    silent[words] = False
    with torch.no_grad():
        model.lm_head.weight[silent] = 0.0
    return model
