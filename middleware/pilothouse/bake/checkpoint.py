"""A model's folder: its configuration and its weights by name, and another one written like it.

Weights are mapped and widened one matrix at a time; what is not changed is copied byte by byte.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilothouse.artifacts.folder import MAX_MANIFEST_BYTES, parse_json, read_file, refuse
from pilothouse.artifacts.saes.mapped_file import Stored, map_safetensors, write_safetensors
from pilothouse.artifacts.saes.matrix import Matrix

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 64 << 20
KEPT = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".py", ".md")
"""Kinds of small files that are taken along: tokenizer, template, generation's defaults."""
MAX_KEPT_BYTES = 256 << 20
FETCH = "name a model's local folder with config.json and safetensors, as save_pretrained writes it"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """`shards` by tensor name; `tensors` lie in the files' mappings."""

    folder: Path
    config: Mapping[str, Any]
    shards: Mapping[str, str]
    tensors: Stored

    def name_of(self, module: str, part: str = "weight") -> str | None:
        """Return a module's tensor, with or without the name of the inner model in front."""
        inner = module.partition(".")[2]
        for name in (f"{module}.{part}", f"{inner}.{part}"):
            if name in self.tensors:
                return name
        return None

    def weight(self, module: str) -> tuple[str, Matrix]:
        """Return name and numbers of a module's weight.

        Raises:
            ArtefactError: the model has none, or it is no matrix of finite floats.
        """
        name = self.name_of(module)
        if name is None:
            refuse(
                self.folder, f"{module}.weight", "no such tensor", "the model's own names", FETCH
            )
        found = self.tensors[name]
        if len(found.shape) != 2:
            refuse(self.folder, name, f"shape {list(found.shape)}", "a matrix", FETCH)
        if found.raw.dtype.kind == "i":
            refuse(
                self.folder,
                name,
                f"dtype {found.raw.dtype}",
                "a float type",
                "bake into the weights before they are quantised",
            )
        bad = found.bad_values()
        if bad:
            refuse(
                self.folder, name, f"{bad} values that are NaN or infinite", "finite values", FETCH
            )
        return name, found


def open_checkpoint(folder: Path) -> Checkpoint:
    """Return the model in a folder. Links are followed: the hub client's cache is made of them.

    Raises:
        ArtefactError: no config.json, no safetensors, or an index that does not fit them.
    """
    if not (folder / CONFIG_FILE).is_file():
        refuse(folder, CONFIG_FILE, "nothing", "a model's folder", FETCH)
    place = (folder / CONFIG_FILE).resolve()
    config = parse_json(place, read_file(place, MAX_MANIFEST_BYTES, FETCH), FETCH)
    shards: dict[str, str] = {}
    tensors: Stored = {}
    for file in _files(folder):
        found, _ = map_safetensors((folder / file).resolve())
        for name in found.keys() & tensors.keys():
            refuse(folder / file, name, "a tensor that another file has too", "each once", FETCH)
        tensors |= found
        shards |= dict.fromkeys(found, file)
    return Checkpoint(folder, config, shards, tensors)


def save_checkpoint(
    base: Checkpoint, out: Path, config: Mapping[str, Any], changed: Stored, new: Stored
) -> None:
    """Write a folder like `base`'s, with other numbers under some names, and new names.

    New tensors go into the first file.
    """
    out.mkdir(parents=True, exist_ok=True)
    for each in sorted(base.folder.iterdir()):
        is_kept = each.suffix in KEPT and each.name not in (CONFIG_FILE, INDEX_FILE)
        if is_kept and each.is_file() and each.stat().st_size <= MAX_KEPT_BYTES:
            shutil.copyfile(each, out / each.name)
    files = sorted(set(base.shards.values()))
    shards = {**base.shards, **dict.fromkeys(new, files[0])}
    for file in files:
        names = [name for name, where in base.shards.items() if where == file]
        extra = new if file == files[0] else {}
        if not extra and not changed.keys() & set(names):
            shutil.copyfile(base.folder / file, out / file)
            continue
        kept = {name: changed.get(name, base.tensors[name]) for name in names}
        write_safetensors(out / file, {**kept, **extra}, {"format": "pt"})
    if files != [SINGLE_FILE]:
        total = sum(each.raw.nbytes for each in {**base.tensors, **changed, **new}.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(shards.items()))}
        (out / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    text = json.dumps(dict(config), indent=2, ensure_ascii=False)
    (out / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def _files(folder: Path) -> list[str]:
    if (folder / SINGLE_FILE).is_file():
        return [SINGLE_FILE]
    if not (folder / INDEX_FILE).is_file():
        found = sorted(each.name for each in folder.iterdir())[:8]
        refuse(folder, "weights", f"none in {found}", f"{SINGLE_FILE} or {INDEX_FILE}", FETCH)
    place = (folder / INDEX_FILE).resolve()
    index = parse_json(place, read_file(place, MAX_INDEX_BYTES, FETCH), FETCH)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        refuse(place, "weight_map", type(weight_map).__name__, "file by tensor", FETCH)
    files = sorted({str(each) for each in weight_map.values()})
    for file in files:
        if Path(file).name != file or not file.endswith(".safetensors"):
            refuse(place, "weight_map", repr(file), "safetensors beside the index", FETCH)
    return files
