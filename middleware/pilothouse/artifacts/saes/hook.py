"""Where an SAE sits: the hook names of other libraries as taps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.module_path import module_tap
from pilothouse.artifacts.saes.hints import NOWHERE, SaeHints, Where
from pilothouse.types import Site, Tap

BLOCK_HOOKS: Mapping[str, Site] = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "attn.hook_z": "attn_heads",
    "hook_attn_out": "attn_out",
    "mlp.hook_post": "mlp_neurons",
    "hook_mlp_out": "mlp_out",
}
"""By TransformerLens. What a block reads after a norm is no tap: nothing is edited there."""

BLOCK = re.compile(r"blocks\.(\d{1,4})\.(.+)")
PATHS = ("layers.N", "h.N", "PATH.layers.N[.MODULE]")
OTHER_PLACE = "use an SAE of the residual stream or of what attention or MLP add to it"
SAY = "say --layer N and --site SITE (`layer` and `site` in pilothouse.yaml) where it sits"


def tap_of(place: Path, field: str, hook: str, told: SaeHints) -> Where:
    """The tap of a hook's name, TransformerLens' or the path of a module.

    NOWHERE for a name that is not known where the operator says layer and site.

    Raises:
        ArtefactError: it names no place that is served, or none that is known and nobody says it.
    """
    if hook in ("hook_embed", "embed_tokens", "model.embed_tokens"):
        return Tap(0, "embed")
    block = BLOCK.fullmatch(hook)
    if block is not None and block[2] in BLOCK_HOOKS:
        return Tap(int(block[1]), BLOCK_HOOKS[block[2]])
    tap = module_tap(hook)
    if tap is not None:
        return tap
    is_lens = block is not None and "hook_" in block[2]
    if is_lens or told.layer is None or told.site is None:
        known = [*(f"blocks.N.{each}" for each in BLOCK_HOOKS), "hook_embed", *PATHS]
        refuse(place, field, repr(hook), f"one of {known}", OTHER_PLACE if is_lens else SAY)
    return NOWHERE
