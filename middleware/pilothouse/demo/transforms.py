"""`python -m pilothouse.demo.transforms`: fits the real model's transforms, one of each form.

`moods` is the plane of the directions cheerful and formal, `voices` the subspace that they span.
`cheer-act` maps each dimension's spread over the gloomy answers of the pairs onto that over the
cheerful ones (linear AcT, Rodriguez et al. 2024). `cheer-reft` is a LoReFT of rank 4 (Wu et al.
2024), trained to make the cheerful answers likely. They are for the examples of the operators'
pages, which are all that is claimed of them.

Shape suffixes: N tokens, B texts, T tokens of a text, R rows, D width of the stream, V vocabulary.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrizations import orthogonal

from pilothouse.artifacts.manifest import TransformForm
from pilothouse.artifacts.transform import UNBOUNDED, Transform, build_transform, save_transform
from pilothouse.demo.smol import smol_folder
from pilothouse.errors import PilothouseError
from pilothouse.library import library_path
from pilothouse.progress import Phase, progress
from pilothouse.training.pair import Pair, load_pairs

CREATED_BY: Final = "pilothouse.demo.transforms"
LAYER: Final = 24
RANK, STEPS, RATE, BATCH, SEED = 4, 30, 0.01, 4, 0
TAIL: Final = 0.005
"""The share of a dimension's values on either side that AcT leaves alone."""
NARROWEST: Final = 1e-3
IGNORED: Final = -100
"""The label that the loss passes over."""
WRONG_USE: Final = 2

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Text:
    """A question in the model's chat template and an answer, in token ids."""

    ids: tuple[int, ...]
    start: int
    """The label of each token of the answer."""


class Model:
    """The model of the `transformers` library, whose hidden states are those of the engine."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.network.requires_grad_(False)

    def texts(self, pairs: Sequence[Pair], side: str) -> list[Text]:
        """Return one side of the pairs."""
        found = []
        for pair in pairs:
            asked = self._tokenizer.apply_chat_template(
                [each.model_dump(exclude_none=True) for each in pair.messages or ()],
                add_generation_prompt=True,
                return_dict=False,
            )
            said = self._tokenizer(getattr(pair, side), add_special_tokens=False)["input_ids"]
            found.append(Text((*asked, *said), len(asked)))
        return found

    def streams_ND(self, texts: Sequence[Text]) -> tuple[Floats, float]:
        """Return the stream behind the layer at tokens of answers, and its mean length everywhere.

        A text's first token does not count: it carries what attention finds nowhere else to put.
        """
        rows, lengths = [], []
        for text in texts:
            with torch.no_grad():
                states = self.network.model(
                    input_ids=torch.tensor([text.ids]), use_cache=False, output_hidden_states=True
                ).hidden_states
            hidden_TD = states[LAYER + 1][0].double().numpy()
            rows.append(hidden_TD[text.start :])
            lengths.append(np.linalg.norm(hidden_TD[1:], axis=1))
        return np.concatenate(rows), float(np.concatenate(lengths).mean())


class LoReft(nn.Module):
    """h + R' (W h + b - R h) at marked tokens, the rows of R orthonormal."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rotation = orthogonal(nn.Linear(width, RANK, bias=False))
        self.learned = nn.Linear(width, RANK)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Return what is added, everywhere."""
        moved_BTR: Tensor = self.learned(hidden_BTD) - self.rotation(hidden_BTD)
        return moved_BTR @ self._rotation_RD()

    def _rotation_RD(self) -> Tensor:
        weight_RD: Tensor = self.rotation.weight  # type: ignore[assignment]
        return weight_RD

    def arrays(self) -> dict[str, Floats]:
        """Return them as a low-rank map holds them."""
        with torch.no_grad():
            rotation_RD = self._rotation_RD()
            return {
                "read": (self.learned.weight - rotation_RD).double().numpy(),
                "write": rotation_RD.double().numpy().copy(),
                "bias": self.learned.bias.double().numpy().copy(),
            }


def linear_act(from_ND: Floats, to_ND: Floats) -> dict[str, Floats]:
    """Return the Gaussian transport in each dimension, on the support of what it starts from."""
    spread_D = np.maximum(from_ND.std(axis=0), NARROWEST)
    factor_D = np.maximum(to_ND.std(axis=0), NARROWEST) / spread_D
    low_D, high_D = np.quantile(from_ND, (TAIL, 1 - TAIL), axis=0)
    shift_D = to_ND.mean(axis=0) - factor_D * from_ND.mean(axis=0)
    limits = np.clip((low_D, high_D), -UNBOUNDED, UNBOUNDED)
    return {"weight": factor_D - 1.0, "bias": shift_D, "low": limits[0], "high": limits[1]}


def plane_2D(first_D: Floats, second_D: Floats) -> Floats:
    """Return two orthonormal directions: along the first, and from it towards the second."""
    basis_D2, corners = np.linalg.qr(np.stack([first_D, second_D], axis=1))
    turned_2D: Floats = (basis_D2 * np.sign(np.diag(corners))).T
    return turned_2D


def fit_loreft(model: Model, texts: Sequence[Text], phase: Phase) -> dict[str, Floats]:
    """Return a LoReFT that makes the answers likely; the model is not changed."""
    torch.manual_seed(SEED)
    edit = LoReft(model.network.config.hidden_size)
    optimiser = torch.optim.Adam(edit.parameters(), lr=RATE)
    edited: dict[str, Tensor] = {}

    def add(_: object, __: object, hidden_BTD: Tensor) -> Tensor:
        edited_BTD: Tensor = hidden_BTD + edited["BT1"] * edit(hidden_BTD)
        return edited_BTD

    hook = model.network.model.layers[LAYER].register_forward_hook(add)
    rng = np.random.default_rng(SEED)
    advance = phase("LoReFT", STEPS)
    try:
        for _ in range(STEPS):
            chosen = rng.choice(len(texts), min(BATCH, len(texts)), replace=False)
            ids_BT, is_answer_BT = padded([texts[i] for i in chosen])
            # As served: on output tokens that are fed, and on the prompt's last one.
            edited["BT1"] = (is_answer_BT | is_answer_BT.roll(-1, 1)).float().unsqueeze(-1)
            logits_BTV = model.network(input_ids=ids_BT, use_cache=False).logits
            labels_BT = torch.where(is_answer_BT, ids_BT, IGNORED)[:, 1:]
            loss = cross_entropy(
                logits_BTV[:, :-1].flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            advance(1)
    finally:
        hook.remove()
    return edit.arrays()


def padded(texts: Sequence[Text]) -> tuple[Tensor, Tensor]:
    """Return the ids of texts beside each other, and which of them are an answer's.

    What pads stands behind, where a causal model's earlier tokens do not see it.
    """
    ids_BT = torch.zeros(len(texts), max(len(each.ids) for each in texts), dtype=torch.long)
    is_answer_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
    for row, text in enumerate(texts):
        ids_BT[row, : len(text.ids)] = torch.tensor(text.ids)
        is_answer_BT[row, text.start : len(text.ids)] = True
    return ids_BT, is_answer_BT


def fit_all(model: Model, model_id: str, phase: Phase) -> list[Transform]:
    """Return every transform."""
    folder = library_path("examples/smol") / "pairs"
    cheerful, formal = (load_pairs(folder / f"{name}.jsonl") for name in ("cheerful", "formal"))
    advance = phase("states", 4)
    states = []
    for pairs in (cheerful, formal):
        for side in ("positive", "negative"):
            states.append(model.streams_ND(model.texts(pairs, side)))
            advance(1)
    (glad_ND, norm), (sad_ND, _), (stiff_ND, _), (loose_ND, _) = states
    basis_2D = plane_2D(
        glad_ND.mean(axis=0) - sad_ND.mean(axis=0), stiff_ND.mean(axis=0) - loose_ND.mean(axis=0)
    )
    forms: dict[str, tuple[TransformForm, dict[str, Floats]]] = {
        "moods": ("plane", {"basis": basis_2D}),
        "voices": ("subspace", {"basis": basis_2D}),
        "cheer-act": ("diagonal", linear_act(sad_ND, glad_ND)),
        "cheer-reft": ("lowrank", fit_loreft(model, model.texts(cheerful, "positive"), phase)),
    }
    return [
        build_transform(
            name,
            form=form,
            model_id=model_id,
            layers=(LAYER,),
            arrays={key: each[None].astype(np.float32) for key, each in arrays.items()},
            residual_norms_L=np.array([norm], np.float32),
            created_by=CREATED_BY,
        )
        for name, (form, arrays) in forms.items()
    ]


def main(words: Sequence[str] | None = None) -> int:
    """Fit and write them; the exit code is 0, or 2 for what cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m pilothouse.demo.transforms",
        description="Fit the real model's transforms anew, for the operators' pages.",
    )
    parser.add_argument("--out", type=Path, help="folder to write to; the library's own")
    given = parser.parse_args(words)
    out = given.out or library_path("examples/smol") / "transforms"
    try:
        folder = smol_folder(_tell)
        with progress() as phase:
            for each in fit_all(Model(folder), folder.name, phase):
                save_transform(each, out / each.name)
                _tell(f"wrote {out / each.name}")
    except PilothouseError as error:
        _tell(str(error))
        return WRONG_USE
    except KeyboardInterrupt:
        _tell("stopped; nothing that was there has changed but what was said to be written")
        return 130
    return 0


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
