"""A random-weight model that likes to say what it has read: words can be steered in it.

Embeddings are tied and the blocks add little, so that the stream stays near the last token's
embedding, and a direction made of words' embeddings makes those words likelier.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

D_MODEL = 64
NUM_LAYERS = 3
MAX_TOKENS = 512
QUIET_BLOCKS = 0.05
SEA = ["harbour", "boats", "tide", "ships", "island", "coast"]
LAND = ["light", "book", "window", "weather", "hour", "names"]
OPENINGS = ("where", "how", "today", "when", "the keeper", "visitors ask", "at dawn", "far from")


def make_echo_model(folder: Path, *, seed: int = 0, tilt: str | None = None) -> Path:
    """Write model and tokenizer to `folder`, and return it.

    Args:
        tilt: a word whose embedding is added to every embedding: a "fine-tuned" form.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from tests.support.models.tiny_model import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=512,
            hidden_size=D_MODEL,
            intermediate_size=128,
            num_hidden_layers=NUM_LAYERS,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=MAX_TOKENS,
            tie_word_embeddings=True,
            initializer_range=0.2,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).to(torch.float32)
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight *= QUIET_BLOCKS
            block.mlp.down_proj.weight *= QUIET_BLOCKS
        if tilt is not None:
            first = tokenizer.encode(tilt)[-1]
            model.model.embed_tokens.weight += model.model.embed_tokens.weight[first].clone()
    model.save_pretrained(folder)
    return folder


def echo_pairs(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Pairs of continuations: about the sea, and about the land."""
    draw = random.Random(seed)
    return [
        {
            "prompt": f"{draw.choice(OPENINGS)} {draw.choice(OPENINGS)} {number}?",
            "positive": " the " + " ".join(draw.sample(SEA, 4)),
            "negative": " the " + " ".join(draw.sample(LAND, 4)),
        }
        for number in range(count)
    ]


def write_lines(path: Path, lines: Iterable[Mapping[str, object]]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
    return path
