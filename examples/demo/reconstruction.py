"""How well an SAE stands for the stream it was trained on: on texts that it has not met.

Shape suffixes: T tokens, D width of the stream, M features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.edits.sae_codes import decode, encode
from record import Record
from speaker import Speaker

ROUNDS = 300


class _Swap:
    """A hook on a block: hears its output, and may say what goes on in its place."""

    def __init__(self, model: Any, layer: int) -> None:
        self.heard_TD = torch.zeros(0)
        self.instead_TD: torch.Tensor | None = None
        self.handle = model.model.layers[layer].register_forward_hook(self._hook)

    def _hook(self, _: object, __: object, hidden_BTD: torch.Tensor) -> torch.Tensor | None:
        self.heard_TD = hidden_BTD[0]
        return None if self.instead_TD is None else self.instead_TD.unsqueeze(0)


def reconstruction(sae: Sae, speaker: Speaker, records: list[Record]) -> dict[str, Any]:
    """L0, dead features, explained variance and loss recovered, intervals by bootstrap over texts.

    The loss is of the answers' tokens. Recovered: 1 where the SAE in the stream's place costs
    nothing, 0 where it costs as much as the stream's mean in its place.
    """
    swap = _Swap(speaker.model, sae.tap.layer)
    ids = list(_fed(speaker, records))
    hidden = [_heard(speaker, swap, each) for each, _ in ids]
    mean_D = np.concatenate(hidden).mean(axis=0)
    rows, fired_M = [], np.zeros(sae.num_features, np.int64)
    for (each, first), hidden_TD in zip(ids, hidden, strict=True):
        codes_TM = encode(sae, hidden_TD)
        built_TD = decode(sae, codes_TM, hidden_TD)
        fired_M += np.count_nonzero(codes_TM, axis=0)
        rows.append(
            [
                len(each),
                np.count_nonzero(codes_TM),
                ((hidden_TD - built_TD) ** 2).sum(),
                ((hidden_TD - mean_D) ** 2).sum(),
                len(each) - first,
                *(
                    _loss(speaker, swap, each, first, put)
                    for put in (None, built_TD, np.broadcast_to(mean_D, hidden_TD.shape))
                ),
            ]
        )
    swap.handle.remove()
    table = np.array(rows)
    draw = np.random.default_rng(0)
    drawn = [_figures(table[draw.integers(0, len(table), len(table))]) for _ in range(ROUNDS)]
    figures = _figures(table)
    return {
        "texts": len(records),
        "tokens": int(table[:, 0].sum()),
        **{
            name: {
                "estimate": round(value, 4),
                "low": round(float(np.quantile([each[name] for each in drawn], 0.025)), 4),
                "high": round(float(np.quantile([each[name] for each in drawn], 0.975)), 4),
            }
            for name, value in figures.items()
        },
        "never_on": int((fired_M == 0).sum()),
        "features": sae.num_features,
    }


def _figures(table: np.ndarray) -> dict[str, float]:
    tokens, on, error, variance, answer, plain, built, mean = table.sum(axis=0)
    return {
        "l0": on / tokens,
        "explained_variance": 1.0 - error / variance,
        "loss": plain / answer,
        "loss_reconstructed": built / answer,
        "loss_mean": mean / answer,
        "loss_recovered": (mean - built) / (mean - plain),
    }


def _fed(speaker: Speaker, records: list[Record]) -> Iterator[tuple[list[int], int]]:
    """Prompt, the model's own reply and its end as ids, and where the reply begins."""
    replies = speaker.replies([record.messages() for record in records], max_new_tokens=48)
    for record, reply in zip(records, replies, strict=True):
        prompt: list[int] = speaker.tokenizer(speaker.text(record.messages()))["input_ids"]
        said: list[int] = speaker.tokenizer(reply)["input_ids"]
        yield [*prompt, *said, int(speaker.tokenizer.eos_token_id)], len(prompt)


@torch.inference_mode()
def _heard(speaker: Speaker, swap: _Swap, ids: list[int]) -> np.ndarray:
    swap.instead_TD = None
    speaker.model(torch.tensor([ids]), use_cache=False)
    heard_TD: np.ndarray = swap.heard_TD.double().numpy()
    return heard_TD


@torch.inference_mode()
def _loss(
    speaker: Speaker, swap: _Swap, ids: list[int], first: int, instead_TD: np.ndarray | None
) -> float:
    """The summed loss of the tokens from `first` on."""
    swap.instead_TD = None if instead_TD is None else torch.tensor(instead_TD, dtype=torch.float32)
    logits_TV = speaker.model(torch.tensor([ids]), use_cache=False).logits[0]
    told = cross_entropy(logits_TV[first - 1 : -1], torch.tensor(ids[first:]), reduction="sum")
    return float(told)
