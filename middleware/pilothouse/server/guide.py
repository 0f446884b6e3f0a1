"""Guides: what a request says its answer must be like. Their cost is counted from their text.

vLLM compiles them beside the engine and cannot stop a compilation that was begun; while an answer
follows one, each of its tokens is looked at in the engine's own loop.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from pilothouse.limits import ServedLimits, exceeded

REGEXES: Final = frozenset({"regex", "pattern", "whitespace_pattern"})
GRAMMARS: Final = frozenset({"grammar", "definition"})
"""Keys, wherever in a guide, whose text is one."""
KEYED: Final = "patternProperties"
"""The one whose own keys are."""
PROPERTIES: Final = "properties"
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
        size = len(guide) if isinstance(guide, str) else len(json.dumps(guide))
        if size > limits.max_guide_kib * 1024:
            raise exceeded(
                field, -(-size // 1024), "max_guide_kib", limits, unit=" KiB", param=field
            )
        found = list(_costs(guide))
        for got, limit in (
            (sum(each.repeats for each in found), "max_guide_repeats"),
            (sum(each.states for each in found), "max_guide_states"),
            (max((each.depth for each in found), default=0), "max_guide_depth"),
            (_most_properties(guide), "max_guide_properties"),
        ):
            if got > getattr(limits, limit):
                raise exceeded(field, got, limit, limits, param=field)


def _guides(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for field in ("structured_outputs", "response_format"):
        if body.get(field):
            yield field, body[field]
    if body.get("tools") and body.get("tool_choice") not in (None, "none", "auto"):
        yield "tools", body["tools"]


def _costs(guide: Any) -> Iterator[Cost]:
    """Of every text in a guide that is a regex or grammar."""
    for key, value in _entries(guide):
        if isinstance(value, str) and key in REGEXES | GRAMMARS:
            yield cost(value, is_grammar=key in GRAMMARS)
        elif key == KEYED and isinstance(value, Mapping):
            yield from map(cost, value)


def _most_properties(guide: Any) -> int:
    held = (value for key, value in _entries(guide) if key == PROPERTIES)
    return max((len(each) for each in held if isinstance(each, Mapping)), default=0)


def _entries(guide: Any) -> Iterator[tuple[str, Any]]:
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
