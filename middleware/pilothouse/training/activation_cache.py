"""Keeps what an engine read of texts between runs, in files that are written whole or not at all.

A folder of the cache holds what was read under one key (model, dtype, layers and whatever else
decides the numbers). Each file in it has the rows of some texts, so that an interrupted run keeps
what it has read, and two runs at once read a text twice at worst.

Shape suffixes: R rows of all texts of a file end to end, L layers, D width of the stream.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pilothouse.errors import ConfigError

Floats32 = NDArray[np.float32]

KEY_FILE = "key.json"
SUFFIX = ".safetensors"


class ActivationCache:
    """The rows of texts that were read under one key.

    Args:
        folder: of the whole cache.
        key: all that decides the numbers, beside the texts.

    Raises:
        ConfigError: the folder cannot be written.
    """

    def __init__(self, folder: Path, key: Mapping[str, object]) -> None:
        text = json.dumps(key, sort_keys=True, default=str)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:24]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(self.folder / KEY_FILE, (text + "\n").encode())
        except OSError as error:
            raise self._refused(error) from error
        self._places: dict[str, tuple[Path, int, int]] = {}
        self._index()

    def missing(self, texts: Iterable[str]) -> list[str]:
        """Those of the texts' digests that have no rows, each once."""
        return [each for each in dict.fromkeys(texts) if each not in self._places]

    def rows(self, texts: Sequence[str]) -> list[Floats32]:
        """rows_RLD of each text, by digest.

        Raises:
            KeyError: a text that is missing.
        """
        by_path: dict[Path, list[str]] = {}
        for each in dict.fromkeys(texts):
            by_path.setdefault(self._places[each][0], []).append(each)
        found: dict[str, Floats32] = {}
        for path, inside in by_path.items():
            with safe_open(path, framework="numpy") as file:
                rows_RLD = file.get_tensor("rows")
            for each in inside:
                _, first, end = self._places[each]
                found[each] = rows_RLD[first:end].copy()
        return [found[each] for each in texts]

    def add(self, texts: Sequence[str], rows: Sequence[Floats32]) -> None:
        """Keep rows_RLD of texts.

        Raises:
            ConfigError: the folder cannot be written.
        """
        ends = np.cumsum([len(each) for each in rows]).tolist()
        name = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:24]
        path = self.folder / f"{name}{SUFFIX}"
        about = {"texts": json.dumps(list(texts)), "ends": json.dumps(ends)}
        data = save({"rows": np.concatenate(rows).astype(np.float32)}, about)
        try:
            self._write(path, data)
        except OSError as error:
            raise self._refused(error) from error
        self._enter(path, texts, ends)

    def _index(self) -> None:
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                with safe_open(path, framework="numpy") as file:
                    about = file.metadata()
                    rows, *_ = file.get_slice("rows").get_shape()
                texts, ends = json.loads(about["texts"]), json.loads(about["ends"])
                if rows == ends[-1] and len(texts) == len(ends):
                    self._enter(path, texts, ends)
            except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError):
                continue  # damaged, or gone since: read again

    def _enter(self, path: Path, texts: Sequence[str], ends: Sequence[int]) -> None:
        for each, first, end in zip(texts, [0, *ends[:-1]], ends, strict=True):
            self._places[each] = (path, first, end)

    def _write(self, path: Path, data: bytes) -> None:
        with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise

    def _refused(self, error: OSError) -> ConfigError:
        return ConfigError(
            where=self.folder,
            got=error.strerror or error,
            want="a folder that can be written",
            fix="make room, or name another with --cache",
        )
