"""The model while it learns: what is around it then, and is not shipped.

Letters of shapes: B rows, T positions, D width, V vocabulary, K parts, C classes of answers,
L layers that vectors are added at, N learned positions, M positions with a part.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import Qwen3ForCausalLM

from lessons import CLASSES, MISSING, PARTS
from rows import VECTORS, Batch

PARTS_BLOCKS, PARTS_WEIGHT = 4, 0.3
LAYERS = (2, 3, 4)  # blocks after which vectors are added, one of them each step
KEEP = 0.98  # of a running mean at each step
SEEN_ENOUGH = 8  # steps with an example of a class before its mean counts


class Learner(torch.nn.Module):
    """The model, a linear head that names the parts of its prompt, and running means.

    The head reads the stream after PARTS_BLOCKS blocks, where an answer is about to begin and, for
    lasting parts, all through it. It brings the parts to where the answer is decided; how they
    combine is left to the model.

    The means are those of the stream over the tokens of plain, cheerful, confident and hedging
    answers. Some lessons give a style by the difference of two means, added to the stream of the
    spoken tokens, in place of the system message: the demo's model is taught to be steerable.
    """

    means_LCD: Tensor
    seen_C: Tensor

    def __init__(self, model: Qwen3ForCausalLM) -> None:
        super().__init__()
        self.model = model
        width = model.config.hidden_size
        self.head = torch.nn.Linear(width, PARTS)
        self.register_buffer("means_LCD", torch.zeros(len(LAYERS), len(CLASSES), width))
        self.register_buffer("seen_C", torch.zeros(len(CLASSES)))
        self.place, self.delta_BTD = 0, None
        for place, layer in enumerate(LAYERS):
            model.model.layers[layer].register_forward_hook(self.adder(place))

    def adder(self, place: int):  # type: ignore[no-untyped-def]  # a torch hook
        def add(_module: object, _inputs: object, hidden_BTD: Tensor) -> Tensor | None:
            if self.delta_BTD is None or place != self.place:
                return None
            return hidden_BTD + self.delta_BTD

        return add

    def forward(self, batch: Batch, step: int) -> Tensor:
        """Cross entropy on assistant tokens; padding is on the right, so causality hides it."""
        ready = bool((self.seen_C >= SEEN_ENOUGH).all())
        given_B = batch.vector_B != MISSING
        learn_BT = batch.targets_BT != MISSING
        self.place, self.delta_BTD = step % len(LAYERS), None
        if ready and given_B.any():
            self.delta_BTD = self.delta(batch, step)
        elif given_B.any():
            learn_BT = learn_BT & ~given_B[:, None]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = self.model.model(
                input_ids=batch.ids_BT, use_cache=False, output_hidden_states=True
            )
            logits_NV = self.model.lm_head(out.last_hidden_state[learn_BT])
        loss = cross_entropy(logits_NV.float(), batch.targets_BT[learn_BT])
        self.note(out.hidden_states, batch)
        return loss + PARTS_WEIGHT * self.parts_loss(out.hidden_states[PARTS_BLOCKS], batch)

    def delta(self, batch: Batch, step: int) -> Tensor:
        """What is added at this step's layer: vector times scale, on the edited tokens."""
        cheerful_D, plain_D, hedge_D, confident_D = self.means_LCD[self.place]
        style_D, careful_D = cheerful_D - plain_D, hedge_D - confident_D
        noise_D = torch.randn(style_D.shape, generator=torch.Generator().manual_seed(step))
        noise_D *= max(style_D.norm(), careful_D.norm()) / noise_D.norm()
        table_ND = torch.stack([style_D, careful_D, noise_D, torch.zeros_like(noise_D)])
        places_B = torch.where(batch.vector_B == MISSING, len(VECTORS), batch.vector_B)
        added_BD = table_ND[places_B] * batch.scale_B[:, None]
        return added_BD[:, None] * batch.edited_BT[..., None]

    @torch.no_grad()
    def note(self, hidden_states: tuple[Tensor, ...], batch: Batch) -> None:
        """Take this batch into the running means; no lesson given by vector is in a class."""
        for c in range(len(CLASSES)):
            here_BT = batch.spoken_BT & batch.classes_BC[:, c, None]
            if not here_BT.any():
                continue
            now_LD = torch.stack(
                [hidden_states[layer + 1][here_BT].float().mean(0) for layer in LAYERS]
            )
            keep = KEEP if self.seen_C[c] > 0 else 0.0
            self.means_LCD[:, c] = keep * self.means_LCD[:, c] + (1 - keep) * now_LD
            self.seen_C[c] += 1

    def parts_loss(self, hidden_BTD: Tensor, batch: Batch) -> Tensor:
        """The mean over parts of the head's mean cross entropy where the part is shown."""
        shown_BTK = batch.parts_BTK != MISSING
        speak_BT = shown_BTK.any(-1)
        shown_MK = shown_BTK[speak_BT]
        logits_MK = self.head(hidden_BTD[speak_BT].float())
        known_MK = batch.parts_BTK[speak_BT].clamp(min=0).float()
        each_MK = binary_cross_entropy_with_logits(logits_MK, known_MK, reduction="none")
        sums_K = (each_MK * shown_MK).sum(0)
        return (sums_K / shown_MK.sum(0).clamp(min=1)).mean()
