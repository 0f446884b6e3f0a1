"""Speaking with the demo's model through transformers: greedy replies, in batches."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

MODEL = Path(__file__).with_name("model")


class Speaker:
    """The model and its tokenizer; replies are greedy, as its generation config says."""

    def __init__(self, folder: Path = MODEL) -> None:
        self.tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.padding_side = "left"
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def text(self, messages: list[dict[str, str]]) -> str:
        """The prompt as the model reads it."""
        rendered: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return rendered

    @torch.inference_mode()
    def replies(
        self, chats: list[list[dict[str, str]]], batch: int = 100, max_new_tokens: int = 64
    ) -> list[str]:
        """One reply for each chat, in order."""
        texts = [self.text(chat) for chat in chats]
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        said = [""] * len(texts)
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            inputs = self.tokenizer([texts[i] for i in part], return_tensors="pt", padding=True)
            made = self.model.generate(**inputs, max_new_tokens=max_new_tokens)
            new = made[:, inputs["input_ids"].shape[1] :]
            for index, ids in zip(part, new, strict=True):
                said[index] = self.tokenizer.decode(ids, skip_special_tokens=True)
        return said
