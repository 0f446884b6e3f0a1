"""Everything that is read at taps, laid out in columns.

Shape suffixes: D width of the tap, E read columns of a tap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pilothouse.artifacts.catalog import Catalog
from pilothouse.edits.statistic import Statistic
from pilothouse.engine.plan.tap_plan import CodeColumns, EditPlan, ResidentSae, TapPlan
from pilothouse.probes.heads import make_head
from pilothouse.types import FloatArray, Tap


class OwnedRow(NamedTuple):
    """A read row, whose it is and where, and what it counts a token in."""

    owner: str
    tap: Tap
    row_D: FloatArray
    statistic: Statistic = Statistic.NONE


class OwnedCode(NamedTuple):
    """A code that is read where its SAE is resident."""

    owner: str
    tap: Tap
    latent: ResidentSae
    feature: int


Read = OwnedRow | OwnedCode


def probe_rows(catalog: Catalog) -> list[OwnedRow]:
    """Return the rows of all probes, as their heads read them."""
    return [
        OwnedRow(name, Tap(layer, probe.site), row_D)
        for name, probe in catalog.probes.items()
        for layer, tap in zip(probe.layers, make_head(probe.head).reads(probe.tensors), strict=True)
        for row_D in tap.rows_RD
    ]


def lay_out_reads(
    edits: Mapping[Tap, EditPlan], reads: Sequence[Read], widths: Mapping[Tap, int]
) -> tuple[tuple[TapPlan, ...], dict[str, tuple[int, ...]], dict[str, FloatArray]]:
    """Lay reads out in columns.

    Returns:
        Every tap in order, the columns of each owner, and the tensors `reads/LAYER/SITE` [D, E].
    """
    at: dict[Tap, list[Read]] = defaultdict(list)
    for read in reads:
        at[read.tap].append(read)
    taps: list[TapPlan] = []
    columns: dict[str, tuple[int, ...]] = {read.owner: () for read in reads}
    tensors: dict[str, FloatArray] = {}
    start = 0
    for tap in sorted(set(edits) | set(at)):
        rows = [each for each in at[tap] if isinstance(each, OwnedRow)]
        codes = _codes([each for each in at[tap] if isinstance(each, OwnedCode)])
        ordered: list[Read] = [*rows, *(each for group in codes.values() for each in group)]
        for column, each in enumerate(ordered, start):
            columns[each.owner] += (column,)
        statistics = tuple(int(each.statistic) for each in rows)
        taps.append(
            TapPlan(
                layer=tap.layer,
                site=tap.site,
                width=widths[tap],
                read_start=start,
                read_stop=start + len(ordered),
                edits=edits.get(tap),
                statistics=statistics if any(statistics) else (),
                codes=tuple(
                    CodeColumns(latent=latent, features=tuple(each.feature for each in group))
                    for latent, group in codes.items()
                ),
            )
        )
        if rows:
            tensors[f"reads/{tap.layer}/{tap.site}"] = np.stack([e.row_D for e in rows], axis=1)
        start += len(ordered)
    return tuple(taps), columns, tensors


def _codes(codes: Sequence[OwnedCode]) -> dict[ResidentSae, list[OwnedCode]]:
    """Group codes by SAE, in the order in which they come."""
    groups: dict[ResidentSae, list[OwnedCode]] = {}
    for each in codes:
        groups.setdefault(each.latent, []).append(each)
    return groups
