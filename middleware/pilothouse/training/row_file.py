"""Rows of a file that somebody's spreadsheet or script wrote: JSON lines, or CSV with a head line.

What is neither is named for what it is, with the command that turns it into one of them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from pilothouse.errors import ConfigError

Numbered = tuple[int, Any]
"""(line number, object), or (line number, what is wrong)."""

UTF_16 = (b"\xff\xfe", b"\xfe\xff")
BINARY = {
    b"PK\x03\x04": "a spreadsheet (.xlsx or .ods)",
    b"\xd0\xcf\x11\xe0": "a spreadsheet (.xls)",
    b"PAR1": "Parquet",
    b"\x1f\x8b": "compressed (gzip)",
    b"SQLite format 3": "a database",
}
DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}
UNPACK = (
    'python -c "import json,sys;[print(json.dumps(x)) for x in json.load(sys.stdin)]" '
    "< {} > pairs.jsonl"
)
WITH_COMMAS = (
    'python -c "import csv,sys;csv.writer(sys.stdout).writerows('
    'csv.reader(sys.stdin,delimiter={!r}))" < {} > pairs.csv'
)


def rows_of(path: Path) -> Iterator[Numbered]:
    """Yield the rows of a file, numbered by its lines.

    Raises:
        ConfigError: unreadable, or another kind of file; says which and what to do.
    """
    text = text_of(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _csv(path, text)
    _refuse_one_document(path, text)
    return _json_lines(text)


def text_of(path: Path) -> str:
    """Read a file's text, without the mark that spreadsheets put in front of UTF-8.

    Raises:
        ConfigError: unreadable, or not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    return decoded(path, data)


def decoded(path: Path, data: bytes) -> str:
    """Decode the bytes of a text file, as `text_of` does.

    Raises:
        ConfigError: not UTF-8; says what it is, as far as that can be told.
    """
    for head, kind in BINARY.items():
        if data.startswith(head):
            raise ConfigError(f"{path}: got {kind}, want text: save it as CSV UTF-8")
    has_mark = data.startswith(UTF_16)
    if has_mark or b"\0" in data[:64]:
        raise ConfigError(
            f"{path}: got UTF-16, want UTF-8: save it as CSV UTF-8, or iconv -f "
            f"{'UTF-16' if has_mark else 'UTF-16LE'} -t UTF-8 {path.name} > utf8{path.suffix}"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}: line {line}: not UTF-8 text (byte {data[error.start]:#04x}): save it as CSV "
            f"UTF-8, or iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8{path.suffix}"
        ) from error


def _refuse_one_document(path: Path, text: str) -> None:
    """Refuse what is JSON as a whole, or CSV under another name."""
    start = text.lstrip()
    first = start.partition("\n")[0].strip()
    if start.startswith("[") and not _is_json(first, list):
        is_whole = True
    else:
        is_whole = start[:1] in ("[", "{") and _is_many_lines(text) and _is_json(text, object)
        is_whole = is_whole or (start.startswith("[{") and _is_json(text, list))
    if is_whole:
        kind = "array" if start.startswith("[") else "object"
        remedy = UNPACK.format(path.name) if kind == "array" else "write each pair on its own line"
        raise ConfigError(f"{path}: got one JSON {kind}, want one object on each line: {remedy}")
    for each in (",", *DELIMITERS):
        names = [name.strip().strip('"') for name in first.split(each)]
        if len(names) > 1 and all(name.isidentifier() for name in names):
            raise ConfigError(
                f"{path}: got a table with the head line {first!r:.60}, want one JSON object on "
                "each line: name the file .csv"
            )


def _is_many_lines(text: str) -> bool:
    return text.strip().count("\n") > 0


def _is_json(text: str, kind: type) -> bool:
    try:
        return isinstance(json.loads(text), kind)
    except (ValueError, RecursionError):
        return False


def _json_lines(text: str) -> Iterator[Numbered]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON: {error}"
            continue
        yield (
            number,
            raw if isinstance(raw, dict) else f"got {line.strip()!r:.60}, want an object",
        )


def _csv(path: Path, text: str) -> Iterator[Numbered]:
    """Yield rows as objects, without empty cells and without rows that have no others."""
    text, before = _without_excels_line(path, text)
    head = text.partition("\n")[0]
    for each, name in DELIMITERS.items():
        if each in head and "," not in head:
            raise ConfigError(
                f"{path}: the head line {head.strip()!r:.60} is divided by {name}, want commas: "
                + WITH_COMMAS.format(each, path.name)
            )
    rows = csv.reader(StringIO(text, newline=""), strict=True)
    try:
        names = [each.strip().lower() for each in next(rows, [])]
        twice = sorted({each for each in names if each and names.count(each) > 1})
        if twice:
            raise ConfigError(f"{path}: the head line has {twice[0]!r} twice, want each name once")
        for row in rows:
            yield from _row(names, row, rows.line_num + before)
    except csv.Error as error:
        raise ConfigError(f"{path}: line {rows.line_num + before}: not CSV: {error}") from error


def _row(names: list[str], row: list[str], number: int) -> Iterator[Numbered]:
    if not any(row):
        return
    extra = [cell for name, cell in zip(names, row, strict=False) if cell and not name]
    if len(row) != len(names) or extra:
        want = sum(map(bool, names))
        yield number, f"want {want} cells as in the head line"
        return
    yield number, {name: cell for name, cell in zip(names, row, strict=True) if cell}


def _without_excels_line(path: Path, text: str) -> tuple[str, int]:
    """Return the text behind a line `sep=,`, by which Excel is told the delimiter."""
    first, _, rest = text.partition("\n")
    said = first.strip().strip('"').lower()
    if not said.startswith("sep="):
        return text, 0
    if said != "sep=,":
        delimiter = said[4:] or "\t"
        raise ConfigError(
            f"{path}: line 1 says {said!r}: cells are divided by {delimiter!r}, want commas: "
            + WITH_COMMAS.format(delimiter, path.name)
        )
    return rest, 1
