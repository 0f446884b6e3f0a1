"""The demo's model through transformers, with features of an SAE edited by a hook.

Apart from the engine on purpose: features are chosen here and tested there.

Shape suffixes: B sequences, T tokens, D width of the stream, M features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from pilothouse.model.sae.autoencoder import Sae
from record import Record
from speaker import Speaker

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
        self.edits: tuple[Set, ...] = ()
        self.lengths: list[float] = []
        self.model.model.layers[sae.tap.layer].register_forward_hook(self._edit)

    def codes(self, hidden_BTD: torch.Tensor, feature: Any = slice(None)) -> torch.Tensor:
        """Codes of all features or of one."""
        z = (hidden_BTD - self._centre_D) @ self.encoder_DM[:, feature] + self._bias_M[feature]
        return torch.where(z > self._threshold_M[feature], z.clamp(min=0.0), 0.0)

    def said(
        self, records: list[Record], edits: tuple[Set, ...] = (), tokens: int = 32
    ) -> list[str]:
        """Greedy replies under the edits; `lengths` hears how long each edited token's edit was."""
        self.edits, self.lengths = edits, []
        try:
            chats = [record.messages() for record in records]
            return self.replies(chats, batch=200, max_new_tokens=tokens)
        finally:
            self.edits = ()

    def _edit(self, _: object, __: object, hidden_BTD: torch.Tensor) -> torch.Tensor:
        is_prompt = hidden_BTD.shape[1] > 1
        for edit in self.edits:
            if edit.place == ("last_prompt", "output")[is_prompt]:
                continue
            first = hidden_BTD.shape[1] - 1 if edit.place == "last_prompt" else 0
            part_BTD = hidden_BTD[:, first:]
            step_BT = edit.code - self.codes(part_BTD, edit.feature)
            change_BTD = step_BT.unsqueeze(-1) * self.decoder_MD[edit.feature]
            self.lengths.append(change_BTD.norm(dim=-1).mean().item())
            hidden_BTD = torch.cat([hidden_BTD[:, :first], part_BTD + change_BTD], dim=1)
        return hidden_BTD


def _tensor(array: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(array), dtype=torch.float32)
