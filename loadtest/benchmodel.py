"""The model under load: random weights in a stock architecture, or the demo's real model.

The random one has about 60M float32 parameters and its words are noise. What counts is that a step
costs what a real model's step costs, and that both servers load the same file.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pilothouse.errors import ConfigError
from pilothouse.library import library_path
from scenario import Size

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} <|end|> "
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
DONE = "complete"


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the model; the defaults give 60.8M parameters."""

    hidden_size: int = 512
    num_hidden_layers: int = 8
    intermediate_size: int = 3584
    vocab_size: int = 8192
    head_dim: int = 64
    max_position_embeddings: int = 2048
    seed: int = 0

    @property
    def name(self) -> str:
        """Distinct for each shape, so that a model on disk is never taken for another."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"qwen3-random-{digest[:10]}"


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A model on disk, and what a load test has to know of it."""

    name: str
    """What `--model` was given."""
    folder: Path
    size: Size
    words: Sequence[str]
    """What prompts are made of, each about one token."""
    about: Mapping[str, Any]
    """What the record of a run says of it."""


def random_model(work: Path) -> BenchModel:
    """The random model, made below `work` if it is not there whole."""
    shape = Shape()
    folder = ensure_model(work, shape)
    return BenchModel(
        "random",
        folder,
        Size(folder.name, shape.hidden_size, shape.num_hidden_layers),
        tuple(word(index) for index in range(num_words(shape))),
        asdict(shape) | {"folder": folder.name},
    )


def smol_model() -> BenchModel:
    """SmolLM2-135M-Instruct as the demo serves it, made ready first where it is not.

    Raises:
        ConfigError: it is not there and cannot be fetched or made.
    """
    from pilothouse.demo.smol import NAME, RECORD, smol_folder

    folder = smol_folder(lambda line: print(line, file=sys.stderr, flush=True))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    made = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return BenchModel(
        "smol",
        folder,
        Size(NAME, config["hidden_size"], config["num_hidden_layers"]),
        english_words(),
        {"name": NAME, "weights": "Q4_1, dequantised", "wheel_sha256": made["wheel_sha256"]},
    )


def model_at(folder: Path) -> BenchModel:
    """A model in a folder of the user's.

    Raises:
        ConfigError: there is no model.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        size = Size(folder.name, config["hidden_size"], config["num_hidden_layers"])
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"--model: got {str(folder)!r}, want smol, random or a folder with the config.json of "
            f"a model ({error!r})"
        ) from error
    about = {"folder": folder.name}
    return BenchModel(folder.name, folder.resolve(), size, english_words(), about)


def english_words() -> tuple[str, ...]:
    """The words of the questions that the real model's facts are asked with, in one order."""
    text = (library_path("examples/smol") / "facts.jsonl").read_text(encoding="utf-8")
    asked = [json.loads(line)["messages"][-1]["content"] for line in text.splitlines() if line]
    return tuple(sorted({each for text in asked for each in re.findall(r"[a-z]+", text.lower())}))


def ensure_model(work: Path, shape: Shape) -> Path:
    """The model's folder below `work`, made if it is not there whole."""
    folder = work / shape.name
    if (folder / DONE).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    _tokenizer(shape).save_pretrained(folder)
    count = _save_weights(folder, shape)
    (folder / DONE).write_text(f"{count} parameters\n", encoding="utf-8")
    return folder


def word(index: int) -> str:
    """A word of the model's vocabulary."""
    return f"w{index}"


def num_words(shape: Shape) -> int:
    """How many words there are beside the special tokens."""
    return shape.vocab_size - len(SPECIALS)


def _tokenizer(shape: Shape) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIALS, *(word(index) for index in range(num_words(shape)))]
    raw = Tokenizer(
        models.WordLevel({each: i for i, each in enumerate(words)}, unk_token="<|pad|>")
    )
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<|pad|>", eos_token="<|end|>", unk_token="<|pad|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _save_weights(folder: Path, shape: Shape) -> int:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(shape.seed)
    heads = shape.hidden_size // shape.head_dim
    config = Qwen3Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.max_position_embeddings,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=SPECIALS.index("<|end|>"),
        pad_token_id=SPECIALS.index("<|pad|>"),
        dtype=torch.float32,
    )
    model = Qwen3ForCausalLM(config).to(torch.float32)
    model.save_pretrained(folder)
    return sum(each.numel() for each in model.parameters())
