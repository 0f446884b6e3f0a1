"""Train the demo's chat model: `python train.py --out model`. About half an hour on two cores.

Ctrl-C saves a checkpoint; the same command goes on from it. The data of every step follow from
the seed and the step's number, so a resumed run meets the same data as an unbroken one.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from lessons import draw_lesson
from tokens import ASSISTANT, END, PAD, VOCABULARY, train_tokenizer

POOL = 1024  # conversations drawn at a time, sorted by length to waste little on padding
BATCH_TOKENS = 3072
SAVE_EVERY_S = 240.0


def model_config(pad: int, end: int) -> Qwen3Config:
    """A stock Qwen3 of about three million parameters."""
    return Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=192, num_hidden_layers=6, intermediate_size=512,
        num_attention_heads=6, num_key_value_heads=6, head_dim=32, max_position_embeddings=1024,
        tie_word_embeddings=True, pad_token_id=pad, eos_token_id=end, bos_token_id=None,
        dtype="float32",
    )


@dataclass(frozen=True)
class Batch:
    ids_BT: Tensor
    targets_BT: Tensor  # -100 where nothing is to be learned


def encode(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> tuple[list[int], list[int]]:
    """One conversation as ids and next-token targets on what the assistant says."""
    text = tokenizer.apply_chat_template(draw_lesson(rng).messages(), tokenize=False)
    ids: list[int] = tokenizer(text)["input_ids"]
    assistant, end = tokenizer.convert_tokens_to_ids([ASSISTANT, END])
    targets, speaking = [], False
    for current, following in zip(ids, ids[1:], strict=False):
        if current == assistant:
            speaking = True
        elif current == end:
            speaking = False
        targets.append(following if speaking else -100)
    return ids[:-1], targets


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, pool: int) -> list[Batch]:
    """One pool of conversations in batches of like length, in random order."""
    rng = random.Random(f"{seed}:{pool}")
    pairs = sorted((encode(tokenizer, rng) for _ in range(POOL)), key=lambda p: len(p[0]))
    pad, made, start = tokenizer.pad_token_id, [], 0
    while start < len(pairs):
        rows = max(1, BATCH_TOKENS // len(pairs[min(start + 20, len(pairs) - 1)][0]))
        part = pairs[start:start + rows]
        width = max(len(ids) for ids, _ in part)
        made.append(Batch(
            torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in part]),
            torch.tensor([t + [-100] * (width - len(t)) for _, t in part]),
        ))
        start += rows
    rng.shuffle(made)
    return made


def stream(tokenizer: PreTrainedTokenizerFast, seed: int, skip: int) -> Iterator[Batch]:
    """Batches without end, from batch number `skip` on."""
    pool = seen = 0
    while True:
        for batch in batches(tokenizer, seed, pool):
            if seen >= skip:
                yield batch
            seen += 1
        pool += 1


def loss_of(model: Qwen3ForCausalLM, batch: Batch) -> Tensor:
    """Cross entropy on assistant tokens. Padding is on the right, so causality hides it."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden_BTD = model.model(input_ids=batch.ids_BT, use_cache=False).last_hidden_state
        learn_BT = batch.targets_BT != -100
        logits_NV = model.lm_head(hidden_BTD[learn_BT])
    return cross_entropy(logits_NV.float(), batch.targets_BT[learn_BT])


def rate(step: int, steps: int, peak: float) -> float:
    """Warm up over 200 steps, hold, then fall linearly to zero over the last 40%."""
    return peak * min(1.0, (step + 1) / 200, max(0.0, (steps - step) / (0.4 * steps)))


@dataclass
class Run:
    """A training run that can be saved and taken up again."""

    model: Qwen3ForCausalLM
    optimiser: torch.optim.Optimizer
    checkpoint: Path
    step: int = 0

    def save(self) -> None:
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(),
                 "step": self.step}
        torch.save(state, self.checkpoint.with_suffix(".part"))
        self.checkpoint.with_suffix(".part").replace(self.checkpoint)

    def resume(self) -> None:
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = state["step"]

    def learn(self, batch: Batch, steps: int, peak: float) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.step, steps, peak)
        loss = loss_of(self.model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()


def optimiser_of(model: Qwen3ForCausalLM, peak: float) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), fused=True)


def train(run: Run, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int, peak: float) -> None:
    """Train to the last step, saving now and then."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} steps"),
               TimeElapsedColumn(), TimeRemainingColumn())
    mean, saved, began, tokens = math.nan, time.monotonic(), time.monotonic(), 0
    with Progress(*columns) as progress:
        bar = progress.add_task("loss", total=steps, completed=run.step)
        for batch in stream(tokenizer, seed, run.step):
            if run.step >= steps:
                break
            loss = run.learn(batch, steps, peak)
            mean = loss if math.isnan(mean) else 0.98 * mean + 0.02 * loss
            tokens += batch.ids_BT.numel()
            speed = tokens / (time.monotonic() - began)
            progress.update(bar, completed=run.step, description=f"loss {mean:.4f} {speed:.0f} tok/s")
            if run.step % 200 == 0 and not progress.console.is_terminal:
                print(f"step {run.step}/{steps} loss {mean:.4f} {speed:.0f} tok/s", flush=True)
            if time.monotonic() - saved > SAVE_EVERY_S:
                run.save()
                saved = time.monotonic()


def export(run: Run, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model folder: config, weights, tokenizer, template, greedy generation."""
    run.model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )
    run.model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> int:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Train the demo's chat model.")
    parser.add_argument("--out", type=Path, default=here / "model")
    parser.add_argument("--checkpoint", type=Path, default=here / "checkpoints" / "demo.pt")
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peak", type=float, default=2e-3, help="highest learning rate")
    chosen = parser.parse_args()
    torch.manual_seed(chosen.seed)
    tokenizer = train_tokenizer()
    pad, end = tokenizer.convert_tokens_to_ids([PAD, END])
    model = Qwen3ForCausalLM(model_config(pad, end))
    run = Run(model, optimiser_of(model, chosen.peak), chosen.checkpoint)
    run.resume()
    try:
        train(run, tokenizer, chosen.seed, chosen.steps, chosen.peak)
    except KeyboardInterrupt:
        run.save()
        print(f"stopped at step {run.step}; the same command goes on", file=sys.stderr)
        return 130
    run.save()
    export(run, tokenizer, chosen.out)
    print(f"wrote {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
