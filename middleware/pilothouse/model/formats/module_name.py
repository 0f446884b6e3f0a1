"""From the name of a module in a transformers model to our layer and site."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pilothouse.types import Site

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d{1,4})(?:\.|$)")

OUTPUT_SITES: Mapping[str, Site] = {
    "": "resid_post",
    "self_attn": "attn_out",
    "self_attn.o_proj": "attn_out",
    "attn": "attn_out",
    "attn.c_proj": "attn_out",
    "mlp": "mlp_out",
    "mlp.down_proj": "mlp_out",
    "mlp.c_proj": "mlp_out",
    "post_feedforward_layernorm": "mlp_out",
}
"""A module's output, where nothing stands behind it. `post_attention_layernorm` is not here: its
output is what attention adds in Gemma 2 and the MLP's input in Llama."""

NORM_INPUT_SITES: Mapping[str, Site] = {
    "input_layernorm": "resid_pre",
    "post_attention_layernorm": "resid_mid",
    "pre_feedforward_layernorm": "resid_mid",
}
"""A norm's input, in blocks with norms before attention and MLP."""


def split_module(name: str) -> tuple[int, str] | None:
    """The layer in a module's name, and what follows it; None if it names no layer."""
    match = LAYER.search(name)
    if match is None:
        return None
    return int(match.group(1)), name[match.end() :]
