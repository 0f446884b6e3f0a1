"""Results of an engine on disk, by the digest of what was asked of it."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class ResultCache:
    """JSON values by digest in a file, which is made where it is not there."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._values = sqlite3.connect(path)
        self._values.execute(
            "create table if not exists kept (digest text primary key, value text)"
        )

    def close(self) -> None:
        """Close the file."""
        self._values.close()

    def get(self, digest: str) -> Any:
        """Return a value; None where there is none."""
        row = self._values.execute("select value from kept where digest = ?", (digest,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, values: Mapping[str, Any]) -> None:
        """Keep all of these or, where that is interrupted, none."""
        with self._values:
            self._values.executemany(
                "insert or replace into kept values (?, ?)",
                [(digest, json.dumps(value)) for digest, value in values.items()],
            )


def digest_of_parts(*parts: object) -> str:
    """Return the SHA-256 of some parts as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
