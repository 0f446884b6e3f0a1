"""From the path of a module in a transformers model to our layer and site.

Paths are compared with dots alone: libraries write `model.layers[3].mlp`, `model_layers[3]_mlp` and
`model.layers.3.mlp` for the same module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pilothouse.types import Site, Tap

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

BLOCK_LISTS = (
    "model.layers",
    "model.decoder.layers",
    "model.language_model.layers",
    "model.text_model.layers",
    "model.backbone.layers",
    "model.transformer.h",
    "model.transformer.blocks",
    "language_model.model.layers",
    "text_model.model.layers",
    "thinker.model.layers",
    "transformer.h",
    "transformer.blocks",
    "transformer.layers",
    "transformer.encoder.layers",
    "gpt_neox.layers",
    "backbone.layers",
    "rwkv.blocks",
    "decoder.layers",
    "encoder.layers",
    "language_model.layers",
    "text_model.layers",
    "layers",
    "h",
    "blocks",
)
"""Where model families keep their decoder's blocks, from the whole model and from its inner one.
Towers for pictures and sound are not here: their blocks are no layers of the language model."""

WRAPPERS = ("", "base_model.model.", "base_model.", "_orig_mod.", "module.")
"""What PEFT, torch.compile and DataParallel put in front."""

ATTENTION = ("self_attn", "attn", "attention", "self_attention")
ATTENTION_OUTPUTS = (
    "self_attn.o_proj",
    "self_attn.out_proj",
    "self_attn.dense",
    "attn.c_proj",
    "attn.out_proj",
    "attn.o_proj",
    "attention.dense",
    "attention.o_proj",
    "attention.wo",
    "self_attention.dense",
)
"""The matrix behind the heads: reads all heads, writes what attention adds."""
MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
MLP_OUTPUTS = (
    "mlp.down_proj",
    "mlp.c_proj",
    "mlp.dense_4h_to_h",
    "mlp.fc_out",
    "mlp.fc2",
    "fc2",
    "ffn.down_proj",
    "feed_forward.down_proj",
    "feed_forward.w2",
)
"""The matrix behind the neurons: reads them, writes what the MLP adds."""


def _sites(*kinds: tuple[Site, Iterable[str]]) -> dict[str, Site]:
    return {_dotted(path): site for site, paths in kinds for path in paths}


def _dotted(path: str) -> str:
    return path.replace("_", ".").replace("[", ".").replace("]", "")


_OUTPUTS = _sites(
    ("resid_post", [""]),
    ("attn_out", [*ATTENTION, *ATTENTION_OUTPUTS, "attn.resid_dropout"]),
    ("mlp_out", [*MLP, *MLP_OUTPUTS, "post_feedforward_layernorm"]),
)
_INPUTS = _sites(
    ("resid_pre", ["", "input_layernorm", "ln_1"]),
    ("attn_heads", ATTENTION_OUTPUTS),
    ("mlp_neurons", MLP_OUTPUTS),
)
_BLOCK = re.compile(
    rf"(?:{'|'.join(re.escape(_dotted(each)) for each in WRAPPERS if each)})?"
    rf"(?:{'|'.join(re.escape(_dotted(each)) for each in BLOCK_LISTS)})"
    r"\.(\d{1,4})(?:\.(.+))?"
)


def split_module(name: str) -> tuple[int, str] | None:
    """Return the layer in a module's name, and what follows it; None if it names no layer."""
    match = LAYER.search(name)
    if match is None:
        return None
    return int(match.group(1)), name[match.end() :]


def module_tap(path: str) -> Tap | None:
    """Return the tap at a module of a decoder's block; `.input` behind it means what it reads.

    None where the path names no block, or a module that is at no site.
    """
    found = _BLOCK.fullmatch(_dotted(path))
    if found is None:
        return None
    inside, _, end = f".{found[2] or ''}".rpartition(".")
    if end not in ("input", "output"):
        inside, end = f"{inside}.{end}", "output"
    site = (_INPUTS if end == "input" else _OUTPUTS).get(inside.strip("."))
    return None if site is None else Tap(int(found[1]), site)
