"""Static device buffers of the taps, and the host side that fills them once per step.

Everything the graph reads lies here, allocated once before the KV cache is sized: the token ->
slot index, the token's coefficient, the policies' coefficients, the edit tables and the scores.

Shape suffixes: N most tokens of a step, T tokens of this step, S slots (row 0 zeros), D hidden
size, P policy targets, E read columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pilothouse.engine.step import Upload
from pilothouse.types import FloatArray, IntArray

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
    """All static tensors; `tables[layer]` [S, D] and `policy_rows[layer]` [P, D] are float32."""

    slot_N: Staged
    coefficient_N: Staged
    policy_NP: Staged
    scores_NE: Tensor
    tables: dict[int, Tensor]
    policy_rows: dict[int, Tensor]

    @classmethod
    def allocate(
        cls,
        *,
        max_tokens: int,
        num_columns: int,
        slots: int,
        d_model: int,
        edit_layers: tuple[int, ...],
        policy_rows: dict[int, FloatArray],
        num_targets: int,
        device: torch.device,
    ) -> TapBuffers:
        """Zeros everywhere but in the policies' rows."""
        return cls(
            slot_N=Staged((max_tokens,), torch.int64, device),
            coefficient_N=Staged((max_tokens,), torch.float32, device),
            policy_NP=Staged((max_tokens, num_targets), torch.float32, device),
            scores_NE=torch.zeros((max_tokens, num_columns), dtype=torch.float32, device=device),
            tables={
                layer: torch.zeros((slots, d_model), dtype=torch.float32, device=device)
                for layer in edit_layers
            },
            policy_rows={
                layer: torch.from_numpy(np.ascontiguousarray(rows_PD, dtype=np.float32)).to(device)
                for layer, rows_PD in policy_rows.items()
            },
        )

    def upload(self, upload: Upload) -> None:
        """Write a program's rows into its slot; layers it does not edit become zero."""
        for layer, table_SD in self.tables.items():
            row_D = upload.rows.get(layer)
            if row_D is None:
                table_SD[upload.slot].zero_()
            else:
                source = torch.from_numpy(np.array(row_D, dtype=np.float32))
                table_SD[upload.slot].copy_(source)
