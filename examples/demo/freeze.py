"""Freezing the world and the model by digest: `python freeze.py` checks, `--write` freezes.

Probes are fitted to one world and one model; a change to either makes their cards untrue.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

from deeds import signs
from facts import table

HERE = Path(__file__).parent
DIGESTS = HERE / "digests.json"
SOURCES = (
    "names.py",
    "facts.py",
    "deeds.py",
    "wrappers.py",
    "pages.py",
    "style.py",
    "record.py",
    "sample.py",
    "check.py",
)
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def current() -> dict[str, str]:
    """Digest of the tables, of each source that shapes a draw, of each model file."""
    tables = json.dumps([table(), signs()], sort_keys=True).encode()
    found = {"tables": digest(tables)}
    for name in (*SOURCES, *(f"model/{file}" for file in MODEL_FILES)):
        path = HERE / name
        found[name] = digest(path.read_bytes()) if path.exists() else "missing"
    return found


def changes() -> list[str]:
    """What differs from the frozen digests, in words; empty when nothing does."""
    if not DIGESTS.exists():
        return [f"{DIGESTS.name} is missing; write it with freeze.py --write"]
    frozen: dict[str, str] = json.loads(DIGESTS.read_text())
    now = current()
    return [
        f"{name}: frozen as {frozen.get(name, 'nothing')[:12]}, is {now.get(name, 'gone')[:12]}"
        for name in sorted(frozen.keys() | now.keys())
        if frozen.get(name) != now.get(name)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Check or write the demo's digests.")
    parser.add_argument("--write", action="store_true", help="freeze what is there now")
    if parser.parse_args().write:
        DIGESTS.write_text(json.dumps(current(), indent=1) + "\n")
    for line in changes():
        print(line, file=sys.stderr)
    return 1 if changes() else 0


if __name__ == "__main__":
    sys.exit(main())
