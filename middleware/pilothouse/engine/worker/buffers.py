"""Static device buffers of the taps, and the host side that fills them once per step.

Everything the graph reads lies here, allocated once before the KV cache is sized: the token ->
slot index, the token's coefficient, the policies' coefficients, the edit tables and the scores.

Shape suffixes: N most tokens of a step, P policy targets, E read columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.scheduler.messages import Upload
from pilothouse.engine.worker.kernel import EditTables, PolicyTables
from pilothouse.engine.worker.sae_encoder import SaeTables
from pilothouse.engine.worker.sae_weights import open_resident_saes, sae_tables
from pilothouse.engine.worker.tables import allocate, policy_tables, upload
from pilothouse.types import FloatArray, IntArray, Tap

ROTATION = 3


class Staged:
    """A device tensor with rotating pinned host copies: a copy in flight is not overwritten.

    On a CPU device the host copy is the tensor itself.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.device_tensor = torch.zeros(shape, dtype=dtype, device=device)
        self._direct = device.type == "cpu"
        hosts = 1 if self._direct else ROTATION
        self._hosts = [
            self.device_tensor if self._direct else torch.zeros(shape, dtype=dtype, pin_memory=True)
            for _ in range(hosts)
        ]
        self._views = [host.numpy() for host in self._hosts]
        self._turn = 0
        self._high = 0

    def write(self, values: FloatArray | IntArray) -> None:
        """Rows [0, len(values)) become `values`, the rest zero. Queued on the current stream."""
        count = len(values)
        high = max(count, self._high)
        self._turn = (self._turn + 1) % len(self._hosts)
        view = self._views[self._turn]
        view[:count] = values
        view[count:high] = 0
        self._high = count
        if not self._direct:
            self.device_tensor[:high].copy_(self._hosts[self._turn][:high], non_blocking=True)

    @property
    def dirty(self) -> bool:
        """Some row is not zero for sure."""
        return self._high > 0


@dataclass(slots=True)
class TapBuffers:
    """All static tensors: what tokens get, what is read, and each tap's tables."""

    slot_N: Staged
    coefficient_N: Staged
    policy_NP: Staged
    scores_NE: Tensor
    tables: dict[Tap, EditTables]
    policies: dict[Tap, PolicyTables]
    resident_saes: dict[Tap, dict[str, SaeTables]]
    """SAEs by their digests."""
    parts: Mapping[Tap, slice]

    @classmethod
    def allocate(
        cls, plan: Plan, parts: Mapping[Tap, slice], *, max_tokens: int, device: torch.device
    ) -> TapBuffers:
        """Return zeros everywhere but in the policies' tables.

        Args:
            device: where the tensors lie.
            max_tokens: the most tokens of a step.
            plan: the plan, with this stage's taps.
            parts: the elements that this rank has of each tap it has.
        """
        body = plan.body
        slots = body.limits.max_programs + 1
        resident_saes = {
            tap: {
                sae.digest: sae_tables(sae, parts[tap], device)
                for sae in open_resident_saes(plan, each)
            }
            for tap, each in plan.taps().items()
            if tap in parts
        }
        edited = [
            (tap, each, each.edits, parts[tap])
            for tap, each in plan.taps().items()
            if each.edits is not None and tap in parts
        ]
        return cls(
            slot_N=Staged((max_tokens,), torch.int64, device),
            coefficient_N=Staged((max_tokens,), torch.float32, device),
            policy_NP=Staged((max_tokens, len(body.policy_targets)), torch.float32, device),
            scores_NE=torch.zeros((max_tokens, body.num_columns), device=device),
            tables={
                tap: allocate(
                    edits,
                    slots=slots,
                    width=part.stop - part.start,
                    device=device,
                    total=each.width,
                    latents=[resident_saes[tap][latent.sae] for latent in edits.latents],
                )
                for tap, each, edits, part in edited
            },
            policies={
                tap: policy_tables(
                    tables,
                    part,
                    edits.policy_rows,
                    device,
                    total=each.width,
                    latents=[resident_saes[tap][latent.sae] for latent in edits.policy_latents],
                )
                for tap, each, edits, part in edited
                if (tables := plan.policy_tensors(tap))
            },
            resident_saes=resident_saes,
            parts=parts,
        )

    def upload(self, program: Upload) -> None:
        """Write a program into its slot; taps that it does not edit become empty there."""
        for tap, tables in self.tables.items():
            edit = program.layers.get(tap)
            upload(tables, program.slot, None if edit is None else edit.part(self.parts[tap]))
