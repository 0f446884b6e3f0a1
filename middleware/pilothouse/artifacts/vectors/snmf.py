"""Features of an MLP's neurons by semi-nonnegative factorisation: `F` [neurons, features].

A dict {F, layer, mode} saved by `torch.save`; `feature` picks the column. `mode`
"mlp_intermediate" is what the down projection reads: `mlp_neurons`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.reading import Reading, Wish
from pilothouse.artifacts.vectors.registry import Format, register
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, layer_number, numbers
from pilothouse.artifacts.vectors.state import read_state
from pilothouse.errors import argument
from pilothouse.types import Site

SITES: Mapping[str, Site] = {"mlp_intermediate": "mlp_neurons"}
HOW = "columns have any length: steer with unit: unit or residual"


def read_snmf(place: Path, wish: Wish) -> Reading:
    """Read one feature's neurons as a direction at `mlp_neurons`, as long as the factor has it."""
    state = read_state(place, wish, ("F", "layer", "mode"))
    assert wish.feature is not None
    if state["mode"] not in SITES:
        refuse(
            place,
            "mode",
            repr(state["mode"]),
            f"one of {sorted(SITES)}",
            f"save the column as .npy and import it with {argument('format_name', 'npy')} "
            f"{argument('site', 'SITE')}",
        )
    factor_DF = numbers(place, "F", state["F"], 2)
    if wish.feature >= factor_DF.shape[1]:
        refuse(
            place,
            "F",
            f"{factor_DF.shape[1]} features",
            f"more than {argument('feature', str(wish.feature))}",
            "count features from 0; F is [neurons, features]",
        )
    layer = layer_number(place, "layer", state["layer"])
    direction_D = factor_DF[:, wish.feature].copy()
    if not direction_D.any():
        refuse(place, f"F[:, {wish.feature}]", "zeros", "a feature with neurons", FETCH_AGAIN)
    return Reading(
        place=place,
        form="vector",
        site=SITES[state["mode"]],
        layers={layer: {"direction": direction_D}},
        fields={layer: f"F[:, {wish.feature}]"},
        notes=(HOW,),
    )


register(
    Format(
        "snmf",
        "a feature of an MLP's neurons (snmf_factors.pt)",
        read_snmf,
        sites=("mlp_neurons",),
        needs=frozenset({"feature"}),
        pickled=True,
    )
)
