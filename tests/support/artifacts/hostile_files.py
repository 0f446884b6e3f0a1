"""Files that must not be imported: each writes one, and says what its error has to name."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from tests.support.artifacts import vector_files as writers
from tests.support.artifacts.vector_files import D, H, draw

REFUSAL = ("refusal-direction",)
LOREFT = ("loreft", "--layer", "1", "--site", "resid_post")
AUSTEER = ("austeer", "--top", "3", "--width", str(H), "--site", "mlp_out")
SNMF = ("snmf", "--feature", "2", "--d-model", str(D))
NPY = ("npy", "--layer", "2")
SAFE = ("safetensors", "--layer", "2=a")
ANGULAR = ("angular", "--site", "resid_mid")


@dataclass(frozen=True)
class Hostile:
    """A way to write a bad file, the words of its import, and what the error tells."""

    write: Callable[[Path], object]
    words: tuple[str, ...]
    told: tuple[str, ...]


class Bomb:
    """Pickles into a call; the call leaves a mark where it is made."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


class HugeView:
    """Pickles into a tensor of 2^40 elements over a storage of four."""

    def __reduce__(self) -> tuple[Any, ...]:
        storage = torch.arange(4.0).untyped_storage()
        typed = torch.storage.TypedStorage(
            wrap_storage=storage, dtype=torch.float32, _internal=True
        )
        shape = (typed, 0, (1 << 40,), (0,), False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, shape


class OutOfStorage(HugeView):
    """Pickles into a tensor that reaches beyond its storage."""

    def __reduce__(self) -> tuple[Any, ...]:
        function, (typed, *_) = super().__reduce__()
        return function, (typed, 0, (1000,), (1,), False, OrderedDict())


def gguf_head(version: int = 3, tensors: int = 1, fields: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields)


def gguf_text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


GGUF_KIND = gguf_text("general.architecture") + struct.pack("<I", 8) + gguf_text("controlvector")


def gguf_tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    dims = struct.pack(f"<{len(shape)}Q", *shape)
    return gguf_text(name) + struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", kind, offset)


def cut(write: Callable[[Path], object], keep: float) -> Callable[[Path], object]:
    """The same file, truncated."""

    def written(file: Path) -> None:
        write(file)
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * keep)])

    return written


def raw(data: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(data)


def linked(file: Path) -> None:
    elsewhere = file.parent.with_name(f"{file.parent.name}-elsewhere")
    writers.write_gguf(elsewhere)
    file.symlink_to(elsewhere)


def linked_inside(folder: Path) -> None:
    writers.write_refusal(folder)
    (folder / "direction.pt").rename(folder.parent / "elsewhere.pt")
    (folder / "direction.pt").symlink_to(folder.parent / "elsewhere.pt")


def fifo(file: Path) -> None:
    os.mkfifo(file)


def rezipped(
    method: int, rename: Callable[[str], str] = lambda name: name
) -> Callable[[Path], object]:
    """A PyTorch archive packed again, compressed or under other names."""

    def written(file: Path) -> None:
        stored = io.BytesIO()
        torch.save({"F": torch.zeros(1 << 20), "layer": 2, "mode": "mlp_intermediate"}, stored)
        with zipfile.ZipFile(stored) as source, zipfile.ZipFile(file, "w", method) as target:
            for name in source.namelist():
                target.writestr(rename(name), source.read(name))

    return written


def npy_of_shape(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(32)


def saved(value: object) -> Callable[[Path], object]:
    return lambda file: torch.save(value, file)


def safe(**arrays: np.ndarray) -> Callable[[Path], object]:
    return lambda file: save_file(arrays, file)


def poisoned(index: int, value: float) -> np.ndarray:
    direction = draw(D, seed=1)
    direction[index] = value
    return direction


def austeer_with(name: str, value: object) -> Callable[[Path], object]:
    def written(folder: Path) -> None:
        writers.write_austeer(folder)
        torch.save(value, folder / name)

    return written


def loreft_with(**changes: torch.Tensor) -> Callable[[Path], object]:
    return saved(writers.loreft(1) | changes)


def act_with(**changes: object) -> Callable[[Path], object]:
    def written(folder: Path) -> None:
        folder.mkdir()
        every = writers.act_linear(1) | changes
        state = {key: each for key, each in every.items() if each is not None}
        torch.save(state, folder / "model.layers.1.mlp.statedict")

    return written


def twice_in_a_folder(folder: Path) -> None:
    writers.write_loreft(folder)
    torch.save(
        writers.loreft(1), folder / "intkey_layer_1_comp_block_output_unit_pos_nunit_1#1.bin"
    )


def angular_with(content: object, protocol: int = 4) -> Callable[[Path], object]:
    """A `.npy` of one object, its pickle made here."""
    head = "{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + "\n"
    lead = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode()
    body = content if isinstance(content, bytes) else pickle.dumps(content, protocol)
    return raw(lead + body)


def one_plane(first: object, second: object) -> Callable[[Path], object]:
    planes = {"first_direction": first, "second_direction": second}
    content = np.array({"model.layers.2.post_attention_layernorm": planes}, dtype=object)
    return angular_with(content)


def metadata(text: str) -> Callable[[Path], object]:
    def written(folder: Path) -> None:
        writers.write_refusal(folder)
        (folder / "direction_metadata.json").write_text(text)

    return written


def svec(**changes: object) -> Callable[[Path], object]:
    return lambda file: writers.write_svec(file, **changes)


def svec_text(directions: str) -> Callable[[Path], object]:
    text = json.dumps({"model_type": "llama"})[:-1] + f', "directions": {directions}}}'
    return raw(text.encode())
