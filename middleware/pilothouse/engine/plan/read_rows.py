"""Everything that is read at taps, laid out in columns.

Shape suffixes: D width of the tap, W width of a hidden layer, R columns that read it, E read
columns of a tap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pilothouse.artifacts.catalog import Catalog
from pilothouse.edits.statistic import Statistic
from pilothouse.engine.plan.tap_plan import (
    CodeColumns,
    EditPlan,
    HiddenColumns,
    ResidentSae,
    TapPlan,
)
from pilothouse.errors import ArtefactError, ConfigError
from pilothouse.probes.heads import HiddenLayer, TapReads, make_head
from pilothouse.types import FloatArray, Normaliser, Tap


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


class OwnedHidden(NamedTuple):
    """A hidden layer of a head, and the rows that read it."""

    owner: str
    tap: Tap
    layer: HiddenLayer
    rows_RW: FloatArray
    statistic: Statistic = Statistic.NONE


Read = OwnedRow | OwnedCode | OwnedHidden

STATISTICS: dict[Normaliser | None, Statistic] = {
    None: Statistic.NONE,
    "layer_norm": Statistic.CENTRED_NORM,
    "rms": Statistic.CONSTANT_NORM,
}
"""What a head with a normaliser counts a token in."""


def probe_reads(catalog: Catalog) -> list[Read]:
    """Return what the heads of all probes read.

    Raises:
        ConfigError: what a head makes of its weights is not finite; names the probe.
    """
    found: list[Read] = []
    for name, probe in catalog.probes.items():
        try:
            taps = make_head(probe.head).reads(probe.tensors)
        except ArtefactError as error:
            raise ConfigError(f"probes.{name}: {error}") from error
        for layer, reads in zip(probe.layers, taps, strict=True):
            found += reads_of(name, Tap(layer, probe.site), reads)
    return found


def reads_of(owner: str, tap: Tap, reads: TapReads) -> list[Read]:
    """Return what a head reads at one tap."""
    statistic = STATISTICS[reads.normaliser]
    if reads.hidden is not None:
        return [OwnedHidden(owner, tap, reads.hidden, reads.rows_RX, statistic)]
    return [OwnedRow(owner, tap, row_D, statistic) for row_D in reads.rows_RX]


def lay_out_reads(
    edits: Mapping[Tap, EditPlan], reads: Sequence[Read], widths: Mapping[Tap, int]
) -> tuple[tuple[TapPlan, ...], dict[str, tuple[int, ...]], dict[str, FloatArray]]:
    """Lay reads out in columns.

    Returns:
        Every tap in order, the columns of each owner, and the tensors: `reads/LAYER/SITE` [D, E],
        and `hidden/LAYER/SITE/NUMBER/` with `weights` [D, W], `bias` [W] and `rows` [W, R].
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
        hidden = [each for each in at[tap] if isinstance(each, OwnedHidden)]
        owners = [
            *(each.owner for each in rows),
            *(each.owner for group in codes.values() for each in group),
            *(each.owner for each in hidden for _ in each.rows_RW),
        ]
        for column, owner in enumerate(owners, start):
            columns[owner] += (column,)
        statistics = tuple(int(each.statistic) for each in rows)
        taps.append(
            TapPlan(
                layer=tap.layer,
                site=tap.site,
                width=widths[tap],
                read_start=start,
                read_stop=start + len(owners),
                edits=edits.get(tap),
                statistics=statistics if any(statistics) else (),
                codes=tuple(
                    CodeColumns(latent=latent, features=tuple(each.feature for each in group))
                    for latent, group in codes.items()
                ),
                hidden=tuple(
                    HiddenColumns(
                        width=len(each.layer.bias_W),
                        num_columns=len(each.rows_RW),
                        activation=each.layer.activation,
                        statistic=int(each.statistic),
                    )
                    for each in hidden
                ),
            )
        )
        if rows:
            tensors[f"reads/{tap.layer}/{tap.site}"] = np.stack([e.row_D for e in rows], axis=1)
        for number, layer in enumerate(hidden):
            head = f"hidden/{tap.layer}/{tap.site}/{number}"
            tensors[f"{head}/weights"] = np.ascontiguousarray(layer.layer.weights_WD.T)
            tensors[f"{head}/bias"] = layer.layer.bias_W
            tensors[f"{head}/rows"] = np.ascontiguousarray(layer.rows_RW.T)
        start += len(owners)
    return tuple(taps), columns, tensors


def _codes(codes: Sequence[OwnedCode]) -> dict[ResidentSae, list[OwnedCode]]:
    """Group codes by SAE, in the order in which they come."""
    groups: dict[ResidentSae, list[OwnedCode]] = {}
    for each in codes:
        groups.setdefault(each.latent, []).append(each)
    return groups
