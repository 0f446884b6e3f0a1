"""The demo's model through transformers, with features of an SAE edited by a hook.

Apart from the engine on purpose: features are chosen here and tested there.

Shape suffixes: B sequences of a batch, T tokens, D width of the stream, M features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from pilothouse.artifacts.saes.autoencoder import Sae
from record import Record
from speaker import Speaker

ROWS = 240
PLACES = ("output", "last_prompt")


class Set(NamedTuple):
    """One feature set to a code at `output` or `last_prompt` positions."""

    feature: int
    code: float
    place: str


class EditedSpeaker(Speaker):
    """Replies while features are set; a JumpReLU SAE of a block's output, its error kept."""

    def __init__(self, sae: Sae) -> None:
        super().__init__()
        self.sae = sae
        self.encoder_DM = _tensor(sae.encoder_DM.whole())
        self.decoder_MD = _tensor(sae.decoder_MD.whole())
        self.lengths_M = self.decoder_MD.norm(dim=1).numpy()
        self._bias_M, self._threshold_M = _tensor(sae.encoder_bias_M), _tensor(sae.threshold_M)
        self._centre_D = _tensor(sae.decoder_bias_D) * float(sae.subtracts_decoder_bias)
        self._edits: Sequence[Set] = ()
        self.lengths: list[float] = []
        self.model.model.layers[sae.tap.layer].register_forward_hook(self._edit)

    def codes(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        """Codes [T, M] of a stream."""
        z_TM = (hidden_TD - self._centre_D) @ self.encoder_DM + self._bias_M
        return torch.where(z_TM > self._threshold_M, z_TM.clamp(min=0.0), 0.0)

    def said(
        self, records: Sequence[Record], edits: Sequence[Set] = (), tokens: int = 32
    ) -> list[str]:
        """Greedy replies, each under its own edit; `lengths` hears how long edits were."""
        said: list[str] = []
        self.lengths = []
        for start in range(0, len(records), ROWS):
            texts = [self.text(each.messages()) for each in records[start : start + ROWS]]
            inputs = self.tokenizer(texts, return_tensors="pt", padding=True)
            self._edits = edits[start : start + ROWS]
            with torch.inference_mode():
                made_BT = self.model.generate(**inputs, max_new_tokens=tokens)
            new_BT = made_BT[:, inputs["input_ids"].shape[1] :]
            said += self.tokenizer.batch_decode(new_BT, skip_special_tokens=True)
        self._edits = ()
        return said

    def _edit(self, _: object, __: object, hidden_BTD: torch.Tensor) -> torch.Tensor:
        if not self._edits:
            return hidden_BTD
        feature_B = torch.tensor([each.feature for each in self._edits])
        code_B = torch.tensor([each.code for each in self._edits])
        place = "last_prompt" if hidden_BTD.shape[1] > 1 else "output"
        is_here_B = torch.tensor([each.place == place for each in self._edits])
        last_BD = hidden_BTD[:, -1]
        read_BD = self.encoder_DM.T[feature_B]
        z_B = ((last_BD - self._centre_D) * read_BD).sum(-1) + self._bias_M[feature_B]
        now_B = torch.where(z_B > self._threshold_M[feature_B], z_B.clamp(min=0.0), 0.0)
        step_B = torch.where(is_here_B, code_B - now_B, 0.0)
        change_BD = step_B.unsqueeze(-1) * self.decoder_MD[feature_B]
        if is_here_B.any():
            self.lengths.append(change_BD[is_here_B].norm(dim=-1).mean().item())
        return torch.cat([hidden_BTD[:, :-1], (last_BD + change_BD).unsqueeze(1)], dim=1)


def _tensor(array: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(array), dtype=torch.float32)
