"""Which layout a folder has, told by its files alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from pilothouse.artifacts.folder import MANIFEST_FILE, WEIGHTS_FILE, refuse
from pilothouse.artifacts.links import what_lies_at
from pilothouse.artifacts.saes.fields import read_fields

LAYER_FILE = re.compile(r"layer(\d{1,4})\.sae\.(safetensors|pt)")
MARKS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "pilothouse": ((MANIFEST_FILE, WEIGHTS_FILE),),
    "saelens": (("cfg.json", "sae_weights.safetensors"),),
    "sparsify": (("cfg.json", "sae.safetensors"),),
    "gemma-scope": (("params.npz",),),
    "gemma-scope-2": (("config.json", "params.safetensors"),),
    "llama-scope": (("hyperparams.json",),),
    "itda": (("metadata.yaml", "atoms.safetensors"), ("metadata.yaml", "atoms.pt")),
    "top-afa": (("config.json", "sae.safetensors"), ("config.json", "sae.pt")),
    "dictionary_learning": (("config.json", "ae.safetensors"), ("config.json", "ae.pt")),
}
"""Files that only one layout has together; each line is one way to have it."""

SHARED = ("config.json", "sae_weights.safetensors")
"""The files of llamascopium and of the R1 series of Llama Scope, which has no field `act_fn`."""


NESTED: Mapping[str, tuple[str, ...]] = {"llama-scope": ("checkpoints/final.safetensors",)}
"""What is read beside the marks."""


def files_of(format_name: str | None, layer: int | None, *, pickles: bool) -> tuple[str, ...]:
    """Return every file that an SAE of a layout, or of any, is read from, or that lies beside."""
    found = {"features.safetensors", "labels.json"}
    for name, ways in MARKS.items():
        if format_name in (None, name):
            found.update(*ways, NESTED.get(name, ()))
    if format_name in (None, "llamascopium", "llama-scope-r1"):
        found.update(SHARED)
    if format_name in (None, "qwen-scope") and layer is not None:
        found.update((f"layer{layer}.sae.safetensors", f"layer{layer}.sae.pt"))
    return tuple(sorted(each for each in found if pickles or not each.endswith(".pt")))


def detect_format(folder: Path) -> str:
    """Return the name of the layout that a folder has.

    Raises:
        ArtefactError: of none that is known, or of several.
    """
    if not folder.is_dir():
        refuse(folder, "folder", what_lies_at(folder), "a folder", "correct the path")
    names = set(os.listdir(folder))
    found = [each for each, ways in MARKS.items() if any(names.issuperset(way) for way in ways)]
    if any(LAYER_FILE.fullmatch(each) for each in names):
        found.append("qwen-scope")
    if names.issuperset(SHARED):
        has_act = read_fields(folder / "config.json").has("act_fn")
        found.append("llamascopium" if has_act else "llama-scope-r1")
    if len(found) != 1:
        known = sorted([*MARKS, "qwen-scope", "llamascopium", "llama-scope-r1"])
        refuse(
            folder,
            "format",
            " and ".join(found) or f"none in {sorted(names)[:8]}",
            f"the files of one of {known}",
            "name the format, or the folder that has the SAE's own files",
        )
    return found[0]
