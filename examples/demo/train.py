"""Train the demo's chat model: `python train.py --out model`. About half an hour on two cores.

Ctrl-C saves a checkpoint; the same command goes on from it. The data of every step follow from
the seed and the step's number, so a resumed run meets the same data as an unbroken one.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import torch
import torch.distributed as dist
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from lessons import MISSING, Lesson, Parts, draw_lesson
from tokens import ASSISTANT, END, PAD, VOCABULARY, train_tokenizer

EARLY_POOLS = 20
POOL = 1024  # conversations drawn at a time, sorted by length to waste little on padding
BATCH_TOKENS = 1536  # of each process
STEPS = 6000
SAVE_EVERY_S = 150.0
PARTS, PARTS_LAYER, PARTS_WEIGHT = 5, 4, 0.3


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
    parts_BTK: Tensor  # 0 or 1 where the assistant is about to speak, else MISSING


@dataclass(frozen=True)
class Row:
    """One conversation as ids, next-token targets on what the assistant says, and parts."""

    ids: list[int]
    targets: list[int]
    parts: dict[int, Parts]  # by position of the token before each answer


def encode(tokenizer: PreTrainedTokenizerFast, lesson: Lesson) -> Row:
    text = tokenizer.apply_chat_template(lesson.messages(), tokenize=False)
    ids: list[int] = tokenizer(text)["input_ids"]
    assistant, end = tokenizer.convert_tokens_to_ids([ASSISTANT, END])
    targets, speaking = [], False
    for current, following in zip(ids, ids[1:], strict=False):
        speaking = current == assistant or (speaking and current != end)
        targets.append(following if speaking else MISSING)
    starts = [place for place, token in enumerate(ids) if token == assistant]
    return Row(ids[:-1], targets, dict(zip(starts, lesson.parts, strict=True)))


def collate(rows: list[Row], pad: int) -> Batch:
    """Rows side by side, padded on the right."""
    width = max(len(row.ids) for row in rows)
    parts_BTK = torch.full((len(rows), width, PARTS), MISSING)
    for place, row in enumerate(rows):
        for position, parts in row.parts.items():
            parts_BTK[place, position] = torch.tensor(parts)
    return Batch(
        torch.tensor([row.ids + [pad] * (width - len(row.ids)) for row in rows]),
        torch.tensor([row.targets + [MISSING] * (width - len(row.targets)) for row in rows]),
        parts_BTK,
    )


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, pool: int) -> list[Batch]:
    """One pool of conversations in batches of like length, in random order."""
    rng = random.Random(f"{seed}:{pool}")
    lessons = (draw_lesson(rng, pool < EARLY_POOLS) for _ in range(POOL))
    rows = sorted((encode(tokenizer, lesson) for lesson in lessons), key=lambda row: len(row.ids))
    made, start = [], 0
    while start < len(rows):
        size = max(1, BATCH_TOKENS // len(rows[min(start + 20, len(rows) - 1)].ids))
        made.append(collate(rows[start:start + size], tokenizer.pad_token_id))
        start += size
    rng.shuffle(made)
    return made


def stream(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Batch]:
    """Batches without end."""
    for pool in count():
        yield from batches(tokenizer, seed, pool)


class Learner(torch.nn.Module):
    """The model, and while it learns a linear head that names the parts of the two relations.

    The head reads the token before each answer, after PARTS_LAYER blocks. It brings the parts to
    where the answer is decided; how they combine is left to the model. It is not shipped.
    """

    def __init__(self, model: Qwen3ForCausalLM) -> None:
        super().__init__()
        self.model = model
        self.head = torch.nn.Linear(model.config.hidden_size, PARTS)

    def forward(self, batch: Batch) -> Tensor:
        """Cross entropy on assistant tokens; padding is on the right, so causality hides it."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = self.model.model(
                input_ids=batch.ids_BT, use_cache=False, output_hidden_states=True
            )
            learn_BT = batch.targets_BT != MISSING
            logits_NV = self.model.lm_head(out.last_hidden_state[learn_BT])
        loss = cross_entropy(logits_NV.float(), batch.targets_BT[learn_BT])
        shown_BTK = batch.parts_BTK != MISSING
        speak_BT = shown_BTK.any(-1)
        if not speak_BT.any():
            return loss
        parts_MK = self.head(out.hidden_states[PARTS_LAYER][speak_BT].float())
        shown_MK = shown_BTK[speak_BT]
        known = batch.parts_BTK[speak_BT][shown_MK].float()
        return loss + PARTS_WEIGHT * binary_cross_entropy_with_logits(parts_MK[shown_MK], known)


def rate(step: int, steps: int, peak: float) -> float:
    """Warm up over 200 steps, hold, then fall linearly to zero over the last 40%."""
    return peak * min(1.0, (step + 1) / 200, max(0.0, (steps - step) / (0.4 * steps)))


@dataclass
class Run:
    """A training run that can be saved and taken up again.

    Gradients lie in one flat buffer, so that the processes sum them in one call; its last element
    carries the wish to stop, so that all of them stop after the same step.
    """

    learner: Learner
    optimiser: torch.optim.Optimizer
    checkpoint: Path
    processes: int
    flat: Tensor
    step: int = 0
    stopped: bool = False

    def save(self) -> None:
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {"model": self.learner.state_dict(), "optimiser": self.optimiser.state_dict(),
                 "step": self.step}
        torch.save(state, self.checkpoint.with_suffix(".part"))
        self.checkpoint.with_suffix(".part").replace(self.checkpoint)

    def resume(self) -> None:
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            self.learner.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = state["step"]

    def learn(self, batch: Batch, steps: int, peak: float, stop: bool) -> float:
        """One step on this process's batch and, by the shared gradient, the other's."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.step, steps, peak)
        self.flat.zero_()
        loss: Tensor = self.learner(batch)
        loss.backward()
        self.flat[-1] = float(stop)
        if self.processes > 1:
            dist.all_reduce(self.flat)
        self.stopped = bool(self.flat[-1] > 0)
        self.flat[:-1] /= self.processes
        torch.nn.utils.clip_grad_norm_(self.learner.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        return loss.item()


def flat_gradients(model: Learner) -> Tensor:
    """One buffer that every parameter's gradient is a view of, and one element more."""
    flat = torch.zeros(sum(p.numel() for p in model.parameters()) + 1)
    start = 0
    for parameter in model.parameters():
        size = parameter.numel()
        parameter.grad = flat[start:start + size].view_as(parameter)
        start += size
    return flat


def optimiser_of(model: Learner, peak: float) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), fused=True)


class Meter:
    """Progress: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, progress: Progress, steps: int, done: int) -> None:
        self.progress, self.steps = progress, steps
        self.bar = progress.add_task("loss", total=steps, completed=done)
        self.mean, self.tokens, self.began = math.nan, 0, time.monotonic()

    def note(self, step: int, loss: float, tokens: int) -> None:
        self.mean = loss if math.isnan(self.mean) else 0.98 * self.mean + 0.02 * loss
        self.tokens += tokens
        speed = self.tokens / (time.monotonic() - self.began)
        text = f"loss {self.mean:.4f} {speed:.0f} tok/s"
        self.progress.update(self.bar, completed=step, description=text)
        if step % 100 == 0 and not self.progress.console.is_terminal:
            print(f"step {step}/{self.steps} {text}", flush=True)


def train(run: Run, batches: Iterator[Batch], steps: int, peak: float, meter: Meter | None) -> None:
    """Train to the last step or to Ctrl-C; the process with the meter saves now and then."""
    wishes: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: wishes.append(number))
    saved = time.monotonic()
    while run.step < steps and not run.stopped:
        batch = next(batches)
        loss = run.learn(batch, steps, peak, stop=bool(wishes))
        if meter is None:
            continue
        meter.note(run.step, loss, batch.ids_BT.numel() * run.processes)
        if time.monotonic() - saved > SAVE_EVERY_S:
            run.save()
            saved = time.monotonic()


def export(run: Run, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model folder: config, weights, tokenizer, template, greedy generation."""
    model = run.learner.model
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def work(rank: int, chosen: argparse.Namespace, port: int) -> None:
    """One training process; the first one reports, saves and exports."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // chosen.processes))
    torch.manual_seed(chosen.seed)
    if chosen.processes > 1:
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", address, rank=rank, world_size=chosen.processes)
    tokenizer = train_tokenizer()
    pad, end = tokenizer.convert_tokens_to_ids([PAD, END])
    learner = Learner(Qwen3ForCausalLM(model_config(pad, end)))
    run = Run(learner, optimiser_of(learner, chosen.peak), chosen.checkpoint, chosen.processes,
              flat_gradients(learner))
    run.resume()
    parts = islice(stream(tokenizer, chosen.seed), run.step * chosen.processes + rank, None,
                   chosen.processes)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} steps"),
               TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=rank > 0) as progress:
        meter = Meter(progress, chosen.steps, run.step) if rank == 0 else None
        train(run, parts, chosen.steps, chosen.peak, meter)
    if rank == 0:
        run.save()
        finish(run, tokenizer, chosen.out)


def finish(run: Run, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    if run.stopped:
        print(f"stopped after step {run.step}; the same command goes on from there")
    else:
        export(run, tokenizer, out)
        print(f"wrote {out}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> int:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Train the demo's chat model.")
    parser.add_argument("--out", type=Path, default=here / "model")
    parser.add_argument("--checkpoint", type=Path, default=here / "checkpoints" / "demo.pt")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peak", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--processes", type=int, default=2, help="one core each is fastest")
    chosen = parser.parse_args()
    if chosen.processes == 1:
        work(0, chosen, 0)
        return 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the workers stop together and save
    torch.multiprocessing.spawn(work, (chosen, free_port()), chosen.processes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
