"""A YAML file as plain data, with the line of every field. No tags, anchors or duplicate keys."""

from __future__ import annotations

import math
import stat
from pathlib import Path
from typing import Any

import yaml

from pilothouse.policy.source import Location, PolicyFileError, Problem, Source

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
_SCALARS = {f"tag:yaml.org,2002:{kind}": kind for kind in ("str", "int", "float", "bool", "null")}


class _Fault(Exception):
    """Wrong at a line (0 based, as PyYAML counts)."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class _Composer(yaml.SafeLoader):
    """SafeLoader that stops at aliases and at nesting no policy needs."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _Fault(line, "got a YAML anchor or alias, want plain values: write them out")
        if self.depth >= MAX_DEPTH:
            raise _Fault(line, f"nested deeper than {MAX_DEPTH} levels: flatten it")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_document(path: Path) -> tuple[dict[str, Any], Source]:
    """The mapping in a YAML file and the line of each of its fields.

    Raises:
        PolicyFileError: unreadable, too large, not one YAML mapping of plain values; `file:line`.
    """
    return parse_document(_text_of(path), str(path))


def parse_document(text: str, file: str) -> tuple[dict[str, Any], Source]:
    """As `read_document`, from text; `file` is what errors name."""
    lines: dict[Location, int] = {}
    try:
        data = _plain(_compose(text), (), lines)
    except _Fault as fault:
        raise _at(file, fault.line + 1, str(fault)) from fault
    if not isinstance(data, dict):
        raise _at(file, 1, f"got {_kind(data)}, want a mapping: write `field: value` lines")
    return data, Source(file, lines)


def _at(file: str, line: int, text: str) -> PolicyFileError:
    return PolicyFileError([Problem(file, line, "", text)])


def _text_of(path: Path) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _at(str(path), 1, "is no plain file: put a file with the text in its place")
        if status.st_size > MAX_BYTES:
            raise _at(str(path), 1, f"larger than {MAX_BYTES} bytes: split it into policies")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        remedy = "check the path and its permissions"
        raise _at(str(path), 1, f"cannot be read: {error.strerror}: {remedy}") from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise _at(str(path), line, "not UTF-8 text: save it as UTF-8") from error


def _compose(text: str) -> yaml.Node | None:
    try:
        loader = _Composer(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(filter(None, (error.context, error.problem)))
        raise _Fault(mark.line if mark else 0, f"not YAML: {reason}: mend the syntax") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n")
        raise _Fault(line, f"not YAML: {error.reason}: remove the character") from error


def _plain(node: yaml.Node | None, at: Location, lines: dict[Location, int]) -> Any:
    if node is None:
        return None
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, at, lines)
    if isinstance(node, yaml.SequenceNode):
        _refuse_tag(node, "tag:yaml.org,2002:seq")
        return [_plain(each, (*at, index), lines) for index, each in enumerate(node.value)]
    return _scalar(node)


def _mapping(node: yaml.MappingNode, at: Location, lines: dict[Location, int]) -> dict[str, Any]:
    _refuse_tag(node, "tag:yaml.org,2002:map")
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line
        key = _scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else key_node.tag
        if not isinstance(key, str) or not isinstance(key_node, yaml.ScalarNode):
            raise _Fault(line, f"got the key {key!r}, want text: put it in quotes")
        if key in result:
            raise _Fault(line, f"the key {key!r} is here twice: keep one")
        lines[*at, key] = line + 1
        result[key] = _plain(value_node, (*at, key), lines)
    return result


def _scalar(node: yaml.Node) -> Any:
    line = node.start_mark.line
    kind = _SCALARS.get(node.tag)
    if kind is None:
        short = node.tag.removeprefix("tag:yaml.org,2002:")
        raise _Fault(line, f"got a value of YAML type {short!r}, want text or a number: quote it")
    try:
        value = yaml.constructor.SafeConstructor().construct_object(node)
    except (ValueError, yaml.YAMLError) as error:
        raise _Fault(line, f"got {node.value!r}, which is not a {kind}: {error}") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise _Fault(line, f"got {node.value!r}, want a finite number")
    return value


def _refuse_tag(node: yaml.Node, want: str) -> None:
    if node.tag != want:
        raise _Fault(node.start_mark.line, f"got the YAML tag {node.tag!r}: remove the tag")


def _kind(data: object) -> str:
    return "an empty file" if data is None else type(data).__name__
