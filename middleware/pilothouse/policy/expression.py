"""The language of `when`: parsed to a small, typed, bounded tree. Nothing is ever executed.

condition  = either [ "for" whole-number ( "token" | "tokens" ) ]
either     = both { "or" both }
both       = negation { "and" negation }
negation   = "not" negation | "(" either ")" | comparison
comparison = signal order number | signal "at" "fpr" number
           | number order signal [ order number ]
order      = ">=" | ">" | "<=" | "<"

Parsed by hand: for `a >= 0.5 b` a lark grammar wants `)` though no bracket is open.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NoReturn, cast

Order = Literal[">=", ">", "<=", "<"]

MAX_LENGTH = 1000
MAX_COMPARISONS = 32
MAX_DEPTH = 8
MAX_STREAK_TOKENS = 256

KEYWORDS = frozenset({"and", "or", "not", "at", "fpr", "for", "token", "tokens"})
_MIRRORED: dict[Order, Order] = {">=": "<=", ">": "<", "<=": ">=", "<": ">"}
_COMPARE = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<order>>=|<=|>(?!>)|<(?!<))|(?P<bracket>[()])"
    r"|(?P<end>$))"
)
_REMEDIES = (
    ("&&", "write `and`"),
    ("||", "write `or`"),
    ("&", "write `and`"),
    ("|", "write `or`"),
    ("!=", "a score has no exact value: use >=, >, <= or <"),
    ("!", "write `not`"),
    ("==", "a score has no exact value: use >=, >, <= or <"),
    ("=", "use >=, >, <= or <"),
    ("%", "write a fraction: 0.001 for 0.1%"),
    ("-", "signals are between 0 and 1"),
    ("{", "a policy has no templates"),
    ("'", "a condition compares numbers, not text"),
    ('"', "a condition compares numbers, not text"),
    ("[", "a condition has no lists or indices"),
    (",", "join comparisons with `and`"),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """`signal order value`."""

    signal: str
    order: Order
    value: float


@dataclass(frozen=True, slots=True)
class AtFpr:
    """The signal is at or above its threshold for a target false positive rate."""

    signal: str
    fpr: float


@dataclass(frozen=True, slots=True)
class Not:
    """True where the operand is false; undecided where it is undecided."""

    operand: Node


@dataclass(frozen=True, slots=True)
class And:
    """All parts hold."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Some part holds."""

    parts: tuple[Node, ...]


Node = Comparison | AtFpr | Not | And | Or


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed `when`: it fires when `root` has held for `streak_tokens` scored tokens in a row."""

    text: str
    root: Node
    streak_tokens: int | None
    """N of `for N tokens`; None when not said, which acts as 1."""


def leaves(node: Node) -> Iterator[Comparison | AtFpr]:
    """Yield the comparisons of a tree, left to right."""
    if isinstance(node, Comparison | AtFpr):
        yield node
        return
    for part in (node.operand,) if isinstance(node, Not) else node.parts:
        yield from leaves(part)


class ExpressionError(ValueError):
    """A condition that cannot be read; says the column, what was got and what to write."""


def parse_condition(text: str) -> Condition:
    """Parse a `when` to its tree.

    Raises:
        ExpressionError: not in the grammar, a comparison that can never or always hold, or more
            than `MAX_COMPARISONS` comparisons, `MAX_DEPTH` levels or `MAX_LENGTH` characters.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(
            f"{len(text)} characters, want at most {MAX_LENGTH}: split it into rules"
        )
    return _Parser(text).condition()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    column: int


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    place = 0
    while not tokens or tokens[-1].kind != "end":
        match = _TOKEN.match(text, place)
        if match is None:
            _refuse_character(text, place)
        kind = cast(str, match.lastgroup)
        word = match.group(kind)
        kind = word if word in KEYWORDS else kind
        tokens.append(_Token(kind, word, match.start(match.lastgroup or 0) + 1))
        place = match.end()
    return tokens


def _refuse_character(text: str, place: int) -> NoReturn:
    rest = text[place:].lstrip()
    column = len(text) - len(rest) + 1
    remedy = next((say for sign, say in _REMEDIES if rest.startswith(sign)), None)
    got = rest.split()[0][:20]
    wanted = remedy or "a condition is made of signal names, numbers, >= > <= <, and, or, not"
    raise ExpressionError(f"column {column}: got {got!r}: {wanted}")


class _Parser:
    """Recursive descent over the tokens; depth is bounded before it recurses."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.at = 0
        self.comparisons = 0

    def condition(self) -> Condition:
        root = self.either(0)
        streak = self.streak() if self.accept("for") else None
        self.expect("end", "the end, `and`, `or` or `for N tokens`")
        return Condition(self.text, root, streak)

    def streak(self) -> int:
        token = self.expect("number", "a whole number of tokens, as in `for 2 tokens`")
        if not token.text.isdigit() or not 1 <= int(token.text) <= MAX_STREAK_TOKENS:
            self.refuse(token, f"a whole number of tokens from 1 to {MAX_STREAK_TOKENS}")
        if not self.accept("tokens"):
            self.expect("token", "`tokens` after the number, as in `for 2 tokens`")
        return int(token.text)

    def either(self, depth: int) -> Node:
        parts = [self.both(depth)]
        while self.accept("or"):
            parts.append(self.both(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def both(self, depth: int) -> Node:
        parts = [self.negation(depth)]
        while self.accept("and"):
            parts.append(self.negation(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def negation(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise ExpressionError(
                f"column {self.tokens[self.at].column}: nested deeper than {MAX_DEPTH} levels: "
                f"split it into rules"
            )
        if self.accept("not"):
            return Not(self.negation(depth + 1))
        if self.accept("("):
            inside = self.either(depth + 1)
            self.expect(")", "`)`")
            return inside
        return self.comparison()

    def comparison(self) -> Node:
        self.count()
        token = self.take()
        if token.kind == "name":
            if self.accept("at"):
                return self.at_fpr(token.text)
            order = self.order("an order (>=, >, <=, <) or `at fpr` after the signal")
            return self.bounded(token.text, order, self.number())
        if token.kind == "number":
            self.at -= 1
            return self.range()
        return self.refuse(token, "a comparison such as `misuse >= 0.5`, `not` or `(`")

    def at_fpr(self, signal: str) -> AtFpr:
        self.expect("fpr", "`fpr`, as in `misuse at fpr 0.001`")
        token = self.expect("number", "a false positive rate, as in `misuse at fpr 0.001`")
        if not 0 < float(token.text) < 1:
            self.refuse(token, "a false positive rate between 0 and 1")
        return AtFpr(signal, float(token.text))

    def range(self) -> Node:
        low_token = self.tokens[self.at]
        first = self.number()
        left = self.order("an order (>=, >, <=, <) after the number")
        signal = self.expect("name", "a signal after the order, as in `0.3 <= doubt < 0.6`").text
        lower = self.bounded(signal, _MIRRORED[left], first)
        if self.tokens[self.at].kind != "order":
            return lower
        self.count()
        token = self.tokens[self.at]
        right = self.order("an order")
        second = self.number()
        if right[0] != left[0] or (second - first if left[0] == "<" else first - second) <= 0:
            self.refuse(token, "a range that can hold, as in `0.3 <= doubt < 0.6`", low_token)
        return And((lower, self.bounded(signal, right, second)))

    def bounded(self, signal: str, order: Order, value: float) -> Comparison:
        holds_at_ends = {_COMPARE[order](end, value) for end in (0.0, 1.0)}
        if len(holds_at_ends) == 1:
            verdict = "always" if holds_at_ends.pop() else "never"
            raise ExpressionError(
                f"`{signal} {order} {value:g}` {verdict} holds: signals are between 0 and 1, so "
                f"compare with a number strictly inside"
            )
        return Comparison(signal, order, value)

    def count(self) -> None:
        self.comparisons += 1
        if self.comparisons > MAX_COMPARISONS:
            raise ExpressionError(
                f"more than {MAX_COMPARISONS} comparisons: split the condition into rules"
            )

    def order(self, wanted: str) -> Order:
        return cast(Order, self.expect("order", wanted).text)

    def number(self) -> float:
        return float(self.expect("number", "a number between 0 and 1").text)

    def take(self) -> _Token:
        token = self.tokens[self.at]
        self.at = min(self.at + 1, len(self.tokens) - 1)
        return token

    def accept(self, kind: str) -> bool:
        token = self.tokens[self.at]
        found = token.text == kind if kind in "()" else token.kind == kind
        if found and token.kind != "end":
            self.at += 1
            return True
        return False

    def expect(self, kind: str, wanted: str) -> _Token:
        token = self.tokens[self.at]
        found = token.text == kind if kind in "()" else token.kind == kind
        if not found:
            self.refuse(token, wanted)
        return self.take()

    def refuse(self, token: _Token, wanted: str, start: _Token | None = None) -> NoReturn:
        if start is not None:
            end = self.tokens[self.at - 1]
            got = repr(self.text[start.column - 1 : end.column - 1 + len(end.text)])
        else:
            got = "the end" if token.kind == "end" else repr(token.text)
        raise ExpressionError(f"column {(start or token).column}: got {got}, want {wanted}")
