"""A program as changes of a model's weights: computed once, written as adapter or checkpoint.

Shapes: O outputs, I inputs, V rows of a table, D width of the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.saes.mapped_file import Stored
from pilothouse.artifacts.saes.matrix import Matrix as Numbers
from pilothouse.artifacts.saes.matrix import narrowed
from pilothouse.bake.architecture import Writers, as_llama
from pilothouse.bake.checkpoint import Checkpoint
from pilothouse.bake.placing import Placed
from pilothouse.edits.layer import Affine
from pilothouse.errors import ConfigError, argument


@dataclass(slots=True)
class Baked:
    """Changes by module. `matrices` and `tables` hold what the model would have after them."""

    matrices: dict[str, Matrix] = field(default_factory=dict)
    tables: dict[str, tuple[Floats, Change]] = field(default_factory=dict)
    shifted: set[str] = field(default_factory=set)
    """Modules whose bias changes, or tables to whose rows a constant is added."""


def bake_matrices(base: Checkpoint, writers: Writers, placed: Sequence[Placed]) -> Baked:
    """Compute every change, in the order in which a token passes them.

    Raises:
        ArtefactError: a matrix is missing, or of another width than the program.
    """
    baked = Baked()
    for each in placed:
        if each.side == "table":
            _map_rows(base, baked, each)
            continue
        matrix = baked.matrices.get(each.module)
        if matrix is None:
            matrix = baked.matrices[each.module] = _matrix(base, writers, each.module)
        width = matrix.weight_OI.shape[0 if each.side == "out" else 1]
        _check_width(base, each, width)
        if each.side == "out":
            matrix.map_output(each.affine)
        else:
            matrix.map_input(each.affine)
    for module, matrix in baked.matrices.items():
        if np.any(matrix.bias_O != _bias(base, module, len(matrix.bias_O))):
            baked.shifted.add(module)
    return baked


def checkpoint_parts(
    base: Checkpoint, writers: Writers, baked: Baked
) -> tuple[dict[str, Any], Stored, Stored]:
    """Return configuration, changed tensors and new tensors of the baked model.

    Raises:
        ConfigError: a constant that the architecture has no bias for.
        ArtefactError: a model that cannot be written as Llama.
    """
    config, changed, new = dict(base.config), Stored(), Stored()
    for module, matrix in baked.matrices.items():
        name, like = base.weight(module)
        weight = matrix.weight_OI.T if writers.is_transposed else matrix.weight_OI
        changed[name] = _held(base, name, weight, like)
    for module, (rows_VD, _) in baked.tables.items():
        name, like = base.weight(module)
        changed[name] = _held(base, name, rows_VD, like)
        _untie(base, config, module, new)
    shifted = sorted(baked.shifted & baked.matrices.keys())
    if shifted:
        config = _with_biases(base, writers, config, shifted, new)
        for module in shifted:
            bias = base.name_of(module, "bias") or f"{module}.bias"
            made = _held(base, bias, baked.matrices[module].bias_O, base.weight(module)[1])
            (changed if bias in base.tensors else new)[bias] = made
    return config, changed, new


def _held(base: Checkpoint, name: str, wide: Floats, like: Numbers) -> Numbers:
    with np.errstate(over="ignore"):
        held = narrowed(wide, like)
    if held.bad_values():
        refuse(
            base.folder,
            name,
            f"numbers up to {np.abs(wide).max():.3g}",
            f"what {'bfloat16' if like.is_bfloat16 else like.raw.dtype} can hold",
            "bake a smaller scale",
        )
    return held


def _matrix(base: Checkpoint, writers: Writers, module: str) -> Matrix:
    _, numbers = base.weight(module)
    weight = numbers.whole()
    weight_OI = weight.T if writers.is_transposed else weight
    return Matrix(weight_OI, _bias(base, module, len(weight_OI)))


def _bias(base: Checkpoint, module: str, size: int) -> Floats:
    name = base.name_of(module, "bias")
    return np.zeros(size) if name is None else base.tensors[name].whole()


def _map_rows(base: Checkpoint, baked: Baked, each: Placed) -> None:
    known = baked.tables.get(each.module)
    rows_VD, change = (base.weight(each.module)[1].whole(), Change()) if known is None else known
    _check_width(base, each, rows_VD.shape[1])
    if each.affine.right_RD.size:
        change.ups.append(each.affine.left_DR)
        change.downs.append(each.affine.right_RD @ rows_VD.T)
    if each.affine.constant_D.any():
        baked.shifted.add(each.module)
    baked.tables[each.module] = (map_table(rows_VD, each.affine), change)


def _check_width(base: Checkpoint, each: Placed, width: int) -> None:
    if len(each.affine.constant_D) != width:
        refuse(
            base.folder,
            f"width at {each.tap.site} of layer {each.tap.layer}",
            width,
            f"{len(each.affine.constant_D)} as the program has",
            "bake it into the model that it was made for",
        )


def _untie(base: Checkpoint, config: dict[str, Any], module: str, new: Stored) -> None:
    """Keep the output matrix as it was where it shares the table's numbers."""
    name, numbers = base.weight(module)
    is_tied = config.get("tie_word_embeddings", config.get("model_type") == "gpt2")
    head = {"gpt_neox": "embed_out.weight"}.get(str(config.get("model_type")), "lm_head.weight")
    is_positions = name.endswith("wpe.weight")
    if is_tied and not is_positions:
        config["tie_word_embeddings"] = False
        if head not in base.tensors:
            new[head] = numbers


def _with_biases(
    base: Checkpoint, writers: Writers, config: dict[str, Any], shifted: Sequence[str], new: Stored
) -> dict[str, Any]:
    if writers.biases == "there" and all(base.name_of(each, "bias") for each in shifted):
        return config
    if writers.biases != "as llama":
        raise ConfigError(
            f"bake: {shifted[0]}: a constant needs a bias, and vLLM's class of "
            f"{base.config['model_type']!r} has none there: steer at run time, or bake an ablation"
        )
    config = as_llama(base.folder, config)
    for layer in range(int(config["num_hidden_layers"])):
        block = writers.block.format(layer)
        for part in (*writers.attention_parts, writers.attention, *writers.mlp_parts, writers.mlp):
            module = f"{block}.{part}"
            _, like = base.weight(module)
            if base.name_of(module, "bias") is None:
                zeros: Floats = np.zeros(like.shape[0])
                new[f"{module}.bias"] = narrowed(zeros, like)
    return config


def adapter_parts(baked: Baked, prefix: str) -> tuple[Stored, dict[str, int]]:
    """Return the tensors of a PEFT adapter, float32, and each module's rank.

    Raises:
        ConfigError: a change that is no low-rank product alone.
    """
    if baked.shifted:
        raise ConfigError(
            f"bake: {sorted(baked.shifted)[0]}: adds a constant, which an adapter (a product of "
            f"what the matrix reads) cannot: use {argument('kind', 'checkpoint')}"
        )
    tensors, ranks = Stored(), {}
    changes = [(module, each.change, "lora_A", "lora_B") for module, each in baked.matrices.items()]
    changes += [
        (module, change, "lora_embedding_A", "lora_embedding_B")
        for module, (_, change) in baked.tables.items()
    ]
    for module, change, down, up in changes:
        tail = "" if "embedding" in down else ".weight"
        ranks[module] = change.down.shape[0]
        tensors[f"{prefix}{module}.{down}{tail}"] = _float32(change.down)
        tensors[f"{prefix}{module}.{up}{tail}"] = _float32(change.up)
    return tensors, ranks


def _float32(wide: Floats) -> Numbers:
    return Numbers(np.ascontiguousarray(wide, np.float32))


Floats = NDArray[np.float64]
ROWS = 8192


@dataclass(slots=True)
class Change:
    """weight' = weight + sum of up @ down; bias' = bias + shift. All float64."""

    ups: list[Floats] = field(default_factory=list)
    downs: list[Floats] = field(default_factory=list)

    @property
    def up(self) -> Floats:
        """The factor [O, R] that writes."""
        return np.concatenate(self.ups, axis=1)

    @property
    def down(self) -> Floats:
        """The factor [R, I] that reads."""
        return np.concatenate(self.downs, axis=0)


@dataclass(slots=True)
class Matrix:
    """weight_OI and bias_O of a linear map, changed in turn by what is baked into it."""

    weight_OI: Floats
    bias_O: Floats
    change: Change = field(default_factory=Change)

    def map_output(self, affine: Affine) -> None:
        """Have it give A y + b where it gave y."""
        if affine.right_RD.size:
            down_RI = affine.right_RD @ self.weight_OI
            self._add(affine.left_DR, down_RI)
            self.bias_O = self.bias_O + affine.left_DR @ (affine.right_RD @ self.bias_O)
        self.bias_O = self.bias_O + affine.constant_D

    def map_input(self, affine: Affine) -> None:
        """Have it read A x + b where it read x."""
        self.bias_O = self.bias_O + self.weight_OI @ affine.constant_D
        if affine.right_RD.size:
            self._add(self.weight_OI @ affine.left_DR, affine.right_RD)

    def _add(self, up_OR: Floats, down_RI: Floats) -> None:
        self.change.ups.append(up_OR)
        self.change.downs.append(down_RI)
        self.weight_OI = self.weight_OI + up_OR @ down_RI


def map_table(table_VD: Floats, affine: Affine) -> Floats:
    """Return rows of a table, each mapped."""
    out_VD: Floats = table_VD + affine.constant_D
    if affine.right_RD.size:
        for start in range(0, len(table_VD), ROWS):
            part = slice(start, start + ROWS)
            out_VD[part] += (table_VD[part] @ affine.right_RD.T) @ affine.left_DR.T
    return out_VD
