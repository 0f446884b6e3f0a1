"""A YAML file as plain data, with the line of every field. No tags and no key twice."""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pilothouse.errors import sendable
from pilothouse.validation_errors import FileError, Location, Problem, Source

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_NODES = 1 << 17
"""Values of one file after aliases are followed: ten lines of them can stand for billions."""
_SCALARS = {f"tag:yaml.org,2002:{kind}": kind for kind in ("str", "int", "float", "bool", "null")}
_BOOLEAN = "tag:yaml.org,2002:bool"
_MERGE = "tag:yaml.org,2002:merge"


class _Fault(Exception):
    """Wrong at a line (0 based, as PyYAML counts)."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class ConfigComposer(yaml.SafeLoader):
    """Composes pilothouse.yaml: it may have anchors, and nesting is bounded.

    Booleans are `true` and `false` alone, as in YAML 1.2, because `on` is a field of ours.
    """

    may_have_anchors = True
    may_be_infinite = True
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose one node, after what must not be there was refused."""
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line if event.start_mark else 0
        is_anchor = isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None
        if is_anchor and not self.may_have_anchors:
            raise _Fault(line, "got a YAML anchor or alias, want plain values: write them out")
        if self.depth >= MAX_DEPTH:
            raise _Fault(line, f"nested deeper than {MAX_DEPTH} levels: flatten it")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


ConfigComposer.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
ConfigComposer.add_implicit_resolver(_BOOLEAN, re.compile(r"^(?:true|false)$"), list("tf"))


class PlainComposer(ConfigComposer):
    """Composes policies and cases: no anchors, and numbers are finite."""

    may_have_anchors = False
    may_be_infinite = False
    yaml_implicit_resolvers = yaml.SafeLoader.yaml_implicit_resolvers


def read_document(path: Path) -> tuple[dict[str, Any], Source]:
    """Read the mapping in a YAML file of plain values, and the line of each of its fields.

    Raises:
        FileError: unreadable, too large, not one YAML mapping of plain values; `file:line`.
    """
    return parse_document(_text_of(path), str(path))


def parse_document(
    text: str, file: str, composer: type[ConfigComposer] = PlainComposer
) -> tuple[dict[str, Any], Source]:
    """Parse a document from its text, as `read_document` does; `file` is what errors name."""
    reader = _Reader(composer)
    try:
        data = reader.plain(_compose(text, composer), ())
    except _Fault as fault:
        raise _at(file, fault.line + 1, str(fault)) from fault
    if not isinstance(data, dict):
        raise _at(file, 1, f"got {_kind(data)}, want a mapping: write `field: value` lines")
    return data, Source(file, reader.lines)


def _at(file: str, line: int, text: str) -> FileError:
    return FileError([Problem(file, line, "", text)])


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


def _compose(text: str, composer: type[ConfigComposer]) -> yaml.Node | None:
    try:
        return composer(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(filter(None, (error.context, error.problem)))
        raise _Fault(mark.line if mark else 0, f"not YAML: {reason}: mend the syntax") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n")
        raise _Fault(line, f"not YAML: {error.reason}: remove the character") from error


class _Reader:
    """Turns composed nodes into plain data, and keeps the line of each field."""

    def __init__(self, composer: type[ConfigComposer]) -> None:
        self.lines: dict[Location, int] = {}
        self._composer = composer
        self._num_nodes = 0

    def plain(self, node: yaml.Node | None, at: Location) -> Any:
        if node is None:
            return None
        self._count(node, at)
        self.lines.setdefault(at, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            _refuse_tag(node, "tag:yaml.org,2002:seq")
            return [self.plain(each, (*at, index)) for index, each in enumerate(node.value)]
        return self._scalar(node)

    def _count(self, node: yaml.Node, at: Location) -> None:
        """Aliases may lead round in a circle, or make much of little."""
        self._num_nodes += 1
        if len(at) > MAX_DEPTH:
            raise _Fault(node.start_mark.line, f"nested deeper than {MAX_DEPTH} levels: flatten it")
        if self._num_nodes > MAX_NODES:
            raise _Fault(node.start_mark.line, f"more than {MAX_NODES} values: use fewer aliases")

    def _mapping(self, node: yaml.MappingNode, at: Location) -> dict[str, Any]:
        _refuse_tag(node, "tag:yaml.org,2002:map")
        result: dict[str, Any] = {}
        own: set[str] = set()
        # What is merged comes first, so that the mapping's own fields win.
        pairs = sorted(node.value, key=lambda pair: pair[0].tag != _MERGE)
        for key_node, value_node in pairs:
            line = key_node.start_mark.line
            if key_node.tag == _MERGE and self._composer.may_have_anchors:
                for merged in _merged(value_node):
                    result = self.plain(merged, at) | result
                continue
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else key_node.tag
            if not isinstance(key, str) or not isinstance(key_node, yaml.ScalarNode):
                raise _Fault(line, f"got the key {key!r}, want text: put it in quotes")
            if key in own:
                raise _Fault(line, f"the key {key!r} is here twice: keep one")
            own.add(key)
            self.lines[*at, key] = line + 1
            result[key] = self.plain(value_node, (*at, key))
        return result

    def _scalar(self, node: yaml.Node) -> Any:
        line = node.start_mark.line
        kind = _SCALARS.get(node.tag)
        if kind is None:
            short = node.tag.removeprefix("tag:yaml.org,2002:")
            raise _Fault(
                line, f"got a value of YAML type {short!r}, want text or a number: quote it"
            )
        try:
            value = yaml.constructor.SafeConstructor().construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError) as error:
            raise _Fault(line, f"got {node.value!r}, which is not a {kind}: {error}") from error
        is_number = isinstance(value, float) and math.isfinite(value)
        if isinstance(value, float) and not is_number and not self._composer.may_be_infinite:
            raise _Fault(line, f"got {node.value!r}, want a finite number")
        if isinstance(value, str) and value != sendable(value):
            raise _Fault(line, f"got {ascii(value)[:80]}, want valid Unicode")
        return value


def _merged(node: yaml.Node) -> Iterator[yaml.MappingNode]:
    """The mappings that `<<` names."""
    for each in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        if not isinstance(each, yaml.MappingNode):
            raise _Fault(node.start_mark.line, "got a value under `<<`, want a mapping's alias")
        yield each


def _refuse_tag(node: yaml.Node, want: str) -> None:
    if node.tag != want:
        raise _Fault(node.start_mark.line, f"got the YAML tag {node.tag!r}: remove the tag")


def _kind(data: object) -> str:
    return "an empty file" if data is None else type(data).__name__
