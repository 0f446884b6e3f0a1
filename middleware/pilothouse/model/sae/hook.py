"""Where an SAE sits: the hook names of other libraries as taps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pilothouse.model.artefact import refuse
from pilothouse.types import Site, Tap

BLOCK_HOOKS: Mapping[str, Site] = {
    "hook_resid_pre": "resid_pre", "hook_resid_mid": "resid_mid", "hook_resid_post": "resid_post",
    "attn.hook_z": "attn_heads", "hook_attn_out": "attn_out", "mlp.hook_post": "mlp_neurons",
    "hook_mlp_out": "mlp_out",
}  # fmt: skip
"""By TransformerLens. What a block reads after a norm is no tap: nothing is edited there."""

MODULE_HOOKS: Mapping[str, Site] = {
    "": "resid_post", "output": "resid_post", "self_attn.o_proj.input": "attn_heads",
    "self_attn": "attn_out", "self_attn.output": "attn_out", "mlp": "mlp_out",
    "mlp.output": "mlp_out", "post_feedforward_layernorm.output": "mlp_out",
}  # fmt: skip
"""By the names of transformers' modules; sparsify leaves `model.` out."""

BLOCK = re.compile(r"blocks\.(\d{1,4})\.(.+)")
MODULE = re.compile(r"(?:model\.)?layers[._](\d{1,4})(?:\.(.+))?")
OTHER_PLACE = "use an SAE of the residual stream or of what attention or MLP add to it"


def tap_of(place: Path, field: str, hook: str) -> Tap:
    """The tap of a hook's name.

    Raises:
        ArtefactError: it names no place that is served.
    """
    if hook in ("hook_embed", "embed_tokens", "model.embed_tokens"):
        return Tap(0, "embed")
    matches = ((BLOCK.fullmatch(hook), BLOCK_HOOKS), (MODULE.fullmatch(hook), MODULE_HOOKS))
    taps = [
        Tap(int(found[1]), sites[found[2] or ""])
        for found, sites in matches
        if found and (found[2] or "") in sites
    ]
    if not taps:
        known = [*(f"blocks.N.{each}" for each in BLOCK_HOOKS), "hook_embed", "layers.N[.mlp]"]
        refuse(place, field, repr(hook), f"one of {known}", OTHER_PLACE)
    return taps[0]
