"""Run by the oracles' Python: peft puts an adapter on a model, and the logits are kept.

Arguments: the model's folder, the adapter's, a JSON list of token ids, the .npz to write.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main(model_folder: str, adapter: str, token_ids: str, out: str) -> None:
    """Plain, with the adapter, and with its weights merged into the model's."""
    ids = torch.tensor([json.loads(token_ids)])
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    found = {}
    with torch.no_grad():
        found["plain"] = model(ids).logits[0].numpy()
        adapted = PeftModel.from_pretrained(model, adapter).eval()
        found["adapted"] = adapted(ids).logits[0].numpy()
        found["merged"] = adapted.merge_and_unload()(ids).logits[0].numpy()
    np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
