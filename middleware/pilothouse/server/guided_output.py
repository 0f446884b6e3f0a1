"""Guides: what a request says its answer must be like. Their cost is counted from their text.

vLLM compiles them beside the engine and cannot stop a compilation that was begun; while an answer
follows one, each of its tokens is looked at in the engine's own loop.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from pilothouse.limits import ServedLimits, exceeded

GUIDES: Final = ("structured_outputs", "response_format")
"""Fields of a body; forced tools are one too, and stand in the prompt besides."""
REGEXES: Final = frozenset({"regex", "pattern", "whitespace_pattern"})
GRAMMARS: Final = frozenset({"grammar", "definition"})
"""Keys, wherever in a guide, whose text is one."""
KEYED: Final = "patternProperties"
"""The one whose own keys are."""
PROPERTIES: Final = "properties"
LENGTHS: Final = frozenset({"minLength", "maxLength"})
CHOICES: Final = "choice"
WRITTEN: Final = REGEXES | GRAMMARS
RequestDecisions = tuple[str, Any]
"""A key of a guide with its value."""
TOKEN: Final = re.compile(
    r"""\\.                              # an escaped character
    |\[[^\]\\]*(?:\\.[^\]\\]*)*\]?    # a class; one that is not closed goes to the end
    |\{\s*+(\d*+)\s*+,?+\s*+(\d*+)\s*+\}        # a counted repetition
    |.                                # a group's bracket, another repetition, or a character
    """,
    re.DOTALL | re.VERBOSE,
)
IN_GRAMMAR: Final = re.compile(r"\{\s*+(\d*+)\s*+,?+\s*+(\d*+)\s*+\}|.", re.DOTALL)
LARGEST: Final = 1 << 40


class Cost(NamedTuple):
    """What a regex or grammar costs, as far as its text tells."""

    repeats: int
    states: int
    """How many more characters it has with its counted repetitions written out."""
    depth: int


def cost(pattern: str, *, is_grammar: bool = False) -> Cost:
    """Counted in one pass.

    Grammars come in more than one syntax, so in theirs everything counts, wherever it stands:
    quotes, comments and classes hide nothing. Groups do not, since rules can stand for them.
    """
    repeats = deepest = written = 0
    sizes, last = [0], 0
    for found in (IN_GRAMMAR if is_grammar else TOKEN).finditer(pattern):
        kind = found[0][0]
        if kind == "(":
            sizes.append(0)
            deepest, last = max(deepest, len(sizes) - 1), 0
        elif kind == ")":
            last = sizes.pop() if len(sizes) > 1 else 0
            sizes[-1] += last
        elif kind == "{" and found.lastindex:
            repeats += 1
            times = max((int(each[:9]) for each in found.groups() if each), default=1)
            more = min(last * max(0, times - 1), LARGEST)
            sizes[-1] += more
            last += more
        elif kind in "*+?":
            repeats += 1
        else:
            written += 1
            sizes[-1] += 1
            last = 1
    return Cost(repeats, sum(sizes) - written, 0 if is_grammar else deepest)


def refuse_large_guides(body: Mapping[str, Any], limits: ServedLimits) -> None:
    """Count the guides of a request: grammar, regex, choices, schemas, forced tools.

    Raises:
        RequestError: larger than a bound allows; the message begins with the field.
    """
    for field, guide in _guides(body):
        refuse_large_guide(field, guide, limits)


def refuse_large_guide(field: str, guide: Any, limits: ServedLimits) -> None:
    """Count one guide, which stands under a field of the body.

    Raises:
        RequestError: larger than a bound allows; the message begins with the field.
    """
    entries = list(_entries(guide))
    texts = [value for key, value in entries if isinstance(value, str) and key in WRITTEN]
    texts += [json.dumps(v) for key, v in entries if key == CHOICES and isinstance(v, list)]
    for size, limit in (
        (len(json.dumps(guide)), "max_schema_kib"),
        (max(map(len, texts), default=0), "max_guide_kib"),
    ):
        if size > getattr(limits, limit) * 1024:
            raise exceeded(field, -(-size // 1024), limit, limits, unit=" KiB", param=field)
    found = list(_costs(entries))
    for got, limit in (
        (sum(each.repeats for each in found), "max_guide_repeats"),
        (sum(each.states for each in found), "max_guide_states"),
        (max((each.depth for each in found), default=0), "max_guide_depth"),
        (_most_properties(entries), "max_guide_properties"),
        (_num_lengths(entries), "max_guide_lengths"),
    ):
        if got > getattr(limits, limit):
            raise exceeded(field, got, limit, limits, param=field)


def _guides(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for field in GUIDES:
        if body.get(field):
            yield field, body[field]
    if body.get("tools") and body.get("tool_choice") not in (None, "none", "auto"):
        yield "tools", body["tools"]


def _costs(entries: Iterable[RequestDecisions]) -> Iterator[Cost]:
    """Of every text in a guide that is a regex or grammar; the same text is compiled once."""
    found: dict[tuple[str, bool], None] = {}
    for key, value in entries:
        if isinstance(value, str) and key in WRITTEN:
            found[value, key in GRAMMARS] = None
        elif key == KEYED and isinstance(value, Mapping):
            found |= dict.fromkeys((name, False) for name in value)
    for text, is_grammar in found:
        yield cost(text, is_grammar=is_grammar)


def _most_properties(entries: Iterable[RequestDecisions]) -> int:
    held = (value for key, value in entries if key == PROPERTIES)
    return max((len(each) for each in held if isinstance(each, Mapping)), default=0)


def _num_lengths(entries: Iterable[RequestDecisions]) -> int:
    return len({v for key, v in entries if key in LENGTHS and isinstance(v, int | float)})


def _entries(guide: Any) -> Iterator[RequestDecisions]:
    """Every key of a guide with its value, wherever it stands, in schemas given as text too."""
    waiting = [guide]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping):
            for key, value in each.items():
                yield key, value
                is_text = isinstance(value, str) and key in ("json", "structural_tag")
                waiting.append(_read(value) if is_text else value)
        elif isinstance(each, list):
            waiting += each


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None  # vLLM says what is wrong with it
