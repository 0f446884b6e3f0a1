"""Writes the tokenizer in a GGUF file as the files that transformers and vLLM read.

llama.cpp names how a text is cut before merging in one word. That word is not known to
transformers' own reader of GGUF files for this model, which leaves numbers whole: this model was
trained on single digits, and no merge in its file joins two.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from gguf.constants import TokenType
from gguf.gguf_reader import GGUFReader
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence

from pilothouse.demo.gguf_model import value
from pilothouse.errors import ArtefactError


def _single_digits() -> PreTokenizer:
    return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])


CUTS: Final[Mapping[str, Callable[[], PreTokenizer]]] = {
    "gpt-2": lambda: ByteLevel(add_prefix_space=False),
    "smollm": _single_digits,
}
"""How a text is split before merging, by llama.cpp's name for it."""
SPECIAL: Final[Mapping[str, str]] = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}


def write_tokenizer(reader: GGUFReader, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, the chat template in it.

    Raises:
        ArtefactError: the file holds another kind of tokenizer.
    """
    tokens: list[str] = value(reader, "tokenizer.ggml.tokens")
    tokenizer_of(reader, tokens).save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        # The class that takes tokenizer.json as it is: the one of this family of tokenizers would
        # cut texts in its own way.
        "tokenizer_class": "TokenizersBackend",
        "backend": "tokenizers",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": value(reader, "llama.context_length"),
        "chat_template": value(reader, "tokenizer.chat_template"),
        **{name: tokens[value(reader, key)] for name, key in SPECIAL.items()},
    }
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def tokenizer_of(reader: GGUFReader, tokens: list[str]) -> Tokenizer:
    """Return the tokenizer that the file describes.

    Raises:
        ArtefactError: it is not byte-level BPE, or cuts texts in a way that is not known here.
    """
    kind, cut = value(reader, "tokenizer.ggml.model"), value(reader, "tokenizer.ggml.pre")
    if kind != "gpt2" or cut not in CUTS:
        raise ArtefactError(
            f"GGUF: tokenizer.ggml.model and .pre: got {kind!r} and {cut!r}, want 'gpt2' and one "
            f"of {', '.join(sorted(CUTS))}"
        )
    merges: list[str] = value(reader, "tokenizer.ggml.merges")
    pairs = [(left, right) for left, _, right in (each.partition(" ") for each in merges)]
    made = Tokenizer(BPE(vocab={each: index for index, each in enumerate(tokens)}, merges=pairs))
    made.pre_tokenizer = CUTS[cut]()
    made.decoder = ByteLevelDecoder()
    kinds: list[int] = value(reader, "tokenizer.ggml.token_type")
    control = [each for each, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    made.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in control])
    return made
