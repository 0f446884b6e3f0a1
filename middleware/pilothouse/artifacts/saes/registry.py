"""The formats of SAEs by name, and what can lie beside any of them.

`features.safetensors`, optional: `max_act` [features], each feature's largest code. `labels.json`,
optional: an object from a feature's number to its name.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from pilothouse.artifacts.folder import parse_json, read_file, refuse
from pilothouse.artifacts.links import what_lies_at
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.detect import detect_format
from pilothouse.artifacts.saes.dictionary_learning import load_dictionary_learning
from pilothouse.artifacts.saes.file_guard import stamps_of
from pilothouse.artifacts.saes.gemma_scope import load_gemma_scope, load_gemma_scope_2
from pilothouse.artifacts.saes.hints import SaeHints
from pilothouse.artifacts.saes.itda import load_itda
from pilothouse.artifacts.saes.llama_scope import load_llama_scope, load_llama_scope_r1
from pilothouse.artifacts.saes.llamascopium import load_llamascopium
from pilothouse.artifacts.saes.mapped_file import FETCH, map_safetensors
from pilothouse.artifacts.saes.native import NAME, load_own
from pilothouse.artifacts.saes.qwen_scope import load_qwen_scope
from pilothouse.artifacts.saes.saelens import load_saelens
from pilothouse.artifacts.saes.sparsify import load_sparsify
from pilothouse.artifacts.saes.top_afa import load_top_afa
from pilothouse.errors import ConfigError
from pilothouse.types import PROJECTION_SITES

Reader = Callable[[str, Path, SaeHints], Sae]
FORMATS: dict[str, Reader] = {}
FEATURES_FILE = "features.safetensors"
LABELS_FILE = "labels.json"
MAX_LABELS_BYTES = 64 << 20
MAX_LABEL_LENGTH = 512
NOTHING_TOLD = SaeHints()


def register(name: str, reader: Reader) -> None:
    """Add a format.

    Raises:
        ConfigError: the name is taken.
    """
    if name in FORMATS:
        raise ConfigError(f"SAE format {name!r} is registered twice; give one another name")
    FORMATS[name] = reader


def load_sae(
    name: str, folder: Path, format_name: str | None, told: SaeHints = NOTHING_TOLD
) -> Sae:
    """Read the SAE in a folder, under the operator's name for it. Nothing in it is executed.

    Args:
        name: the operator's name for it.
        folder: the folder that its files are in.
        format_name: None for the one that the files tell.
        told: what the operator says beside the files.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    if format_name is None:
        format_name = detect_format(folder)
    if format_name not in FORMATS:
        refuse(
            f"saes.{name}",
            "format",
            repr(format_name),
            f"one of {sorted(FORMATS)}",
            "name the library that made the file",
        )
    _check_folder(folder)
    stamps = stamps_of(folder)
    sae = FORMATS[format_name](name, folder, told)
    norm = sae.average_norm if told.average_norm is None else told.average_norm
    if norm is None and sae.input_scale != 1.0:
        norm = math.sqrt(sae.width) / sae.input_scale
    sae = _as_told(folder, replace(sae, average_norm=norm, stamps=stamps), told)
    return _with_labels(_with_maxima(sae, folder), folder)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        refuse(
            folder,
            "folder",
            what_lies_at(folder),
            "a folder",
            "correct the path in pilothouse.yaml",
        )


def _as_told(folder: Path, sae: Sae, told: SaeHints) -> Sae:
    """Return the SAE centred or not as the operator says, where its layout has no word for it."""
    if told.is_centred in (None, sae.is_centred):
        return sae
    if sae.tap.site in PROJECTION_SITES:
        refuse(
            folder,
            "is_centred",
            True,
            f"nothing at {sae.tap.site}",
            "leave it out: what is centred is the stream and what is added to it",
        )
    digest = hashlib.sha256(f"{sae.digest} centred {told.is_centred}".encode()).hexdigest()
    return replace(sae, is_centred=bool(told.is_centred), digest=digest)


def _with_maxima(sae: Sae, folder: Path) -> Sae:
    place = folder / FEATURES_FILE
    if not os.path.lexists(place):
        return sae
    tensors, sha256 = map_safetensors(place)
    if set(tensors) != {"max_act"}:
        refuse(place, "tensors", sorted(tensors), "['max_act'] alone", FETCH)
    max_act = tensors["max_act"]
    if max_act.shape != (sae.num_features,):
        refuse(
            place,
            "max_act",
            f"shape {list(max_act.shape)}",
            f"shape [{sae.num_features}]",
            "use the file that belongs to this SAE",
        )
    if max_act.bad_values() or (max_act.whole() < 0).any():
        refuse(
            place,
            "max_act",
            "NaN, infinite or negative numbers",
            "finite numbers of at least 0",
            FETCH,
        )
    maxima_M = max_act.whole()
    maxima_M.setflags(write=False)
    digest = hashlib.sha256(f"{sae.digest} {sha256}".encode()).hexdigest()
    return replace(sae, max_act_M=maxima_M, digest=digest)


def _with_labels(sae: Sae, folder: Path) -> Sae:
    place = folder / LABELS_FILE
    if not os.path.lexists(place):
        return sae
    labels: dict[int, str] = {}
    text = read_file(place, MAX_LABELS_BYTES)
    for key, label in parse_json(place, text).items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < sae.num_features):
            refuse(
                place,
                "feature",
                repr(key),
                f"a number from 0 to {sae.num_features - 1}",
                "use the file that belongs to this SAE",
            )
        if not isinstance(label, str) or not 0 < len(label) <= MAX_LABEL_LENGTH:
            refuse(place, key, repr(label), f"1 to {MAX_LABEL_LENGTH} characters", "correct it")
        labels[int(key)] = label
    digest = hashlib.sha256(f"{sae.digest} labels ".encode() + text).hexdigest()
    return replace(sae, labels=MappingProxyType(labels), digest=digest)


register(NAME, load_own)
register("saelens", load_saelens)
register("gemma-scope", load_gemma_scope)
register("gemma-scope-2", load_gemma_scope_2)
register("llama-scope", load_llama_scope)
register("llama-scope-r1", load_llama_scope_r1)
register("llamascopium", load_llamascopium)
register("qwen-scope", load_qwen_scope)
register("sparsify", load_sparsify)
register("dictionary_learning", load_dictionary_learning)
register("itda", load_itda)
register("top-afa", load_top_afa)
