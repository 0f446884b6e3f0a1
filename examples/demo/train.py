"""Train the demo's chat model: `python train.py --out model`. About half an hour on two cores.

Ctrl-C saves a checkpoint; the same command goes on from it. The data of every step follow from
the seed and the step's number, so a resumed run meets the same data as an unbroken one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from learner import Learner
from rows import Batch, stream
from tokens import END, PAD, VOCABULARY, dress, train_tokenizer

STEPS = 6500
SAVE_EVERY_S = 150.0


def model_config(pad: int, end: int) -> Qwen3Config:
    """A stock Qwen3 of about three million parameters."""
    return Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=192,
        num_hidden_layers=6,
        intermediate_size=512,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=pad,
        eos_token_id=end,
        bos_token_id=None,
        dtype="float32",
    )


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
    tokenizer: PreTrainedTokenizerFast
    step: int = 0
    stopped: bool = False

    def save(self) -> None:
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.learner.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "tokenizer": self.tokenizer.backend_tokenizer.to_str(),
        }
        torch.save(state, self.checkpoint.with_suffix(".part"))
        self.checkpoint.with_suffix(".part").replace(self.checkpoint)

    def resume(self) -> None:
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            self.learner.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = state["step"]
            self.tokenizer = dress(Tokenizer.from_str(state["tokenizer"]))

    def learn(self, batch: Batch, steps: int, peak: float, stop: bool) -> float:
        """One step on this process's batch and, by the shared gradient, the other's."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.step, steps, peak)
        self.flat.zero_()
        loss: Tensor = self.learner(batch, self.step)
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
        parameter.grad = flat[start : start + size].view_as(parameter)
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


def export(run: Run, out: Path) -> None:
    """Write the model folder: config, weights, tokenizer, template, greedy generation."""
    model, tokenizer = run.learner.model, run.tokenizer
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    # vLLM looks at the temperature alone; transformers refuses to save one beside do_sample.
    settings = out / "generation_config.json"
    greedy = {**json.loads(settings.read_text()), "temperature": 0.0}
    settings.write_text(json.dumps(greedy, indent=2) + "\n")


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
    run = Run(
        learner,
        optimiser_of(learner, chosen.peak),
        chosen.checkpoint,
        chosen.processes,
        flat_gradients(learner),
        tokenizer,
    )
    run.resume()
    parts = islice(
        stream(run.tokenizer, chosen.seed),
        run.step * chosen.processes + rank,
        None,
        chosen.processes,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed} steps"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=rank > 0) as progress:
        meter = Meter(progress, chosen.steps, run.step) if rank == 0 else None
        train(run, parts, chosen.steps, chosen.peak, meter)
    if rank == 0:
        run.save()
        finish(run, chosen.out)


def finish(run: Run, out: Path) -> None:
    if run.stopped:
        print(f"stopped after step {run.step}; the same command goes on from there")
    else:
        export(run, out)
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
