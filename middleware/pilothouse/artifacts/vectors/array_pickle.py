"""Numpy arrays out of a pickle, by an unpickler that knows no function and no class of anyone.

The names a file may use stand for records here: `numpy.dtype` for its text, `_reconstruct` for a
record that keeps shape, type and bytes. Nothing that a file names is imported or called.
`torch.load(weights_only=True)` does not do: it reads what torch.save wrote, which a .npy is not.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.source import FETCH_AGAIN

FLOATS = ("f2", "f4", "f8")
SAVE_NPY = "save the two directions of each module as plain .npy and import those"


class PlainType:
    """Stands for `numpy.dtype`: its text, and whether its bytes are little-endian."""

    def __init__(self, text: str = "", *_: object) -> None:
        self.text = text
        self.order = "|"

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])


class PlainArray:
    """Stands for an array: shape, type and bytes, or the objects that it holds."""

    shape: tuple[int, ...] = ()
    dtype: object = None
    payload: object = None

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, _, self.payload = state

    @property
    def objects(self) -> list[Any] | None:
        """What an array of objects holds; None of any other."""
        return self.payload if isinstance(self.payload, list) else None

    def numbers(self, place: Path, field: str) -> NDArray[Any]:
        """Return the array, if it is one of plain floats and as long as it says.

        Raises:
            ArtefactError: it is not.
        """
        kind = self.dtype
        if not isinstance(kind, PlainType) or kind.text not in FLOATS or kind.order not in "<>|=":
            refuse(
                place,
                field[:96],
                f"type {getattr(kind, 'text', kind)}",
                f"one of {FLOATS}",
                SAVE_NPY,
            )
        sizes = self.shape if isinstance(self.shape, tuple) else ("?",)
        if not all(type(each) is int and each >= 0 for each in sizes) or len(sizes) > 2:
            refuse(place, field[:96], f"shape {sizes}", "one dimension", FETCH_AGAIN)
        dtype = np.dtype(kind.order.replace("|", "=") + kind.text)
        wanted = prod(sizes) * dtype.itemsize
        if not isinstance(self.payload, bytes) or len(self.payload) != wanted:
            got = len(self.payload) if isinstance(self.payload, bytes) else 0
            refuse(
                place,
                field[:96],
                f"{got} bytes",
                f"{wanted} bytes for shape {list(sizes)}",
                FETCH_AGAIN,
            )
        return np.frombuffer(self.payload, dtype).reshape(sizes)


class _Reconstruct:
    """Stands for numpy's `_reconstruct`; without room for attributes that a file might set."""

    __slots__ = ()

    def __call__(self, *_: object) -> PlainArray:
        return PlainArray()


KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): object(),
    ("numpy", "dtype"): PlainType,
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return KNOWN[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"it names something outside the file: {pid!r}")


def load_arrays(place: Path, data: bytes) -> object:
    """Return what a pickle of plain containers and numpy arrays holds, arrays as `PlainArray`.

    Raises:
        ArtefactError: it names anything else, or is broken.
    """
    try:
        _check_memo(data)
        return _Unpickler(io.BytesIO(data)).load()
    # What a broken pickle can raise has no end.
    except Exception as error:
        refuse(
            place,
            "content",
            f"{type(error).__name__}: {error}",
            "dicts of numpy arrays and nothing else",
            SAVE_NPY,
        )


def _check_memo(data: bytes) -> None:
    """Refuse a memo number that is out of scale: the unpickler makes room for the largest."""
    for opcode, argument, _ in pickletools.genops(data):
        puts = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT")
        if puts and not (isinstance(argument, int) and 0 <= argument <= len(data)):
            raise pickle.UnpicklingError(f"memo number {argument}")
