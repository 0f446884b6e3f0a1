"""Everything that is read at taps, laid out in columns.

Shape suffixes: D width of the tap, E read columns of a tap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pilothouse.engine.tap_plan import EditPlan, TapPlan
from pilothouse.model.catalogue import Catalogue
from pilothouse.types import FloatArray, Tap


class OwnedRow(NamedTuple):
    """A read row, whose it is and where."""

    owner: str
    tap: Tap
    row_D: FloatArray


def probe_rows(catalogue: Catalogue) -> list[OwnedRow]:
    """The rows of all probes."""
    return [
        OwnedRow(name, Tap(layer, probe.site), weights_D)
        for name, probe in catalogue.probes.items()
        for layer, weights_D in zip(probe.layers, probe.weights_LD, strict=True)
    ]


def laid_out(
    edits: Mapping[Tap, EditPlan], rows: Sequence[OwnedRow], widths: Mapping[Tap, int]
) -> tuple[tuple[TapPlan, ...], dict[str, tuple[int, ...]], dict[str, FloatArray]]:
    """Every tap in order, the columns of each owner, and the tensors `reads/LAYER/SITE` [D, E]."""
    at: dict[Tap, list[OwnedRow]] = defaultdict(list)
    for row in rows:
        at[row.tap].append(row)
    taps: list[TapPlan] = []
    columns: dict[str, tuple[int, ...]] = {row.owner: () for row in rows}
    reads: dict[str, FloatArray] = {}
    start = 0
    for tap in sorted(set(edits) | set(at)):
        stop = start + len(at[tap])
        taps.append(
            TapPlan(
                layer=tap.layer, site=tap.site, width=widths[tap],
                read_start=start, read_stop=stop, edits=edits.get(tap),
            )
        )  # fmt: skip
        for column, row in enumerate(at[tap], start):
            columns[row.owner] += (column,)
        if at[tap]:
            key = f"reads/{tap.layer}/{tap.site}"
            reads[key] = np.stack([row.row_D for row in at[tap]], axis=1)
        start = stop
    return tuple(taps), columns, reads
