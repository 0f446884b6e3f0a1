"""Run by the oracles' Python: repeng and steering-vectors train, save and apply their vectors.

Writes into its one argument, a folder that holds a model: `repeng.gguf`, `steering.pt`,
`words.json` (the token ids that were run) and `logits.npz` (plain, and under each vector).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from repeng import ControlModel, ControlVector, DatasetEntry
from steering_vectors import train_steering_vector
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

WORDS = "the keeper of light writes names ships and hour each in a long book by window glad sad"
PAIRS = tuple(
    (line.format("glad"), line.format("sad"))
    for line in (
        "the {} keeper writes",
        "{} ships in light",
        "a {} hour by the window",
        "names of {} ships",
        "each long {} book",
        "{} light and ships",
    )
)
PROMPT = "the keeper of ships writes in a long book"
LAYERS = [1, 2]
REPENG_SCALE, STEERING_SCALE = 3.0, -2.5


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A word for each id."""
    names = ["<pad>", "<unk>", *WORDS.split()]
    raw = Tokenizer(models.WordLevel({each: i for i, each in enumerate(names)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>")


def main(folder: Path) -> None:
    """Do it all; what is plain comes first, since repeng changes the model's blocks."""
    tokenizer = word_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    found = {}
    with torch.no_grad():
        found["plain"] = model(ids).logits[0].numpy()
    steering = train_steering_vector(model, tokenizer, PAIRS, layers=LAYERS)
    torch.save(steering, folder / "steering.pt")
    with torch.no_grad(), steering.apply(model, multiplier=STEERING_SCALE):
        found["steering"] = model(ids).logits[0].numpy()
    controlled = ControlModel(model, LAYERS)
    entries = [DatasetEntry(positive=glad, negative=sad) for glad, sad in PAIRS]
    vector = ControlVector.train(controlled, tokenizer, entries, batch_size=2)
    vector.export_gguf(folder / "repeng.gguf")
    controlled.set_control(vector, REPENG_SCALE)
    with torch.no_grad():
        found["repeng"] = controlled(ids).logits[0].numpy()
    np.savez(folder / "logits.npz", **found)
    (folder / "words.json").write_text(json.dumps(ids[0].tolist()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
