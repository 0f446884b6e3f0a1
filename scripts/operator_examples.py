"""Write the answers of the operators' pages: `python scripts/operator_examples.py URL`.

URL is a running server of `examples/smol/operators.yaml`; docs/reference/operators/README.md says
how to start it. A page's JSON block holds one term a line; where a text block follows, it holds the
question and the greedy answers, plain and for each term. The tests ask the same and compare.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PAGES = Path(__file__).resolve().parents[1] / "docs" / "reference" / "operators"
BLOCK = re.compile(r"```json\n(?P<terms>.*?)```(?:\n\n```text\n(?P<text>.*?)```)?", re.DOTALL)
SYSTEM, ASKED = "system: ", "asked: "
NOBODYS = "hello there"
MAX_TOKENS = 32

Answer = tuple[str, dict[str, int]]
Message = dict[str, str]
Ask = Callable[[list[Message], list[dict[str, Any]]], Answer]


@dataclass(frozen=True)
class Example:
    """Some terms of a page; `text` is what the page says came of them, if it says it."""

    terms: tuple[dict[str, Any], ...]
    messages: list[Message]
    text: str | None


def examples(page: str) -> Iterator[Example]:
    """Every JSON block of a page."""
    for found in BLOCK.finditer(page):
        terms = tuple(json.loads(line) for line in found["terms"].splitlines())
        text = found["text"]
        lines = text.splitlines() if text else [ASKED + NOBODYS]
        messages = [
            {"role": role, "content": line.removeprefix(head)}
            for line in lines
            for head, role in ((SYSTEM, "system"), (ASKED, "user"))
            if line.startswith(head)
        ]
        yield Example(terms, messages, text)


def asker(url: str) -> Ask:
    """Ask the server: the greedy answer on one line, and steered tokens by vector."""

    served = httpx.get(f"{url}/v1/models", timeout=30).json()["data"]
    model = served[0]["id"]

    def ask(messages: list[Message], steer: list[dict[str, Any]]) -> Answer:
        body = {
            "model": model,
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
            "messages": messages,
            "pilothouse": {"steer": steer} if steer else {},
        }
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
        if answer.status_code != httpx.codes.OK:
            raise ValueError(f"{steer}: {answer.text}")
        choice = answer.json()["choices"][0]
        told = choice["pilothouse"]
        return " ".join(choice["message"]["content"].split()), told.get("steered") or {}

    return ask


def answered(example: Example, ask: Ask) -> str:
    """The text block as the server would have it."""
    heads = {"system": SYSTEM, "user": ASKED}
    lines = [heads[each["role"]] + each["content"] for each in example.messages]
    lines.append(f"plain: {ask(example.messages, [])[0]}")
    for number, term in enumerate(example.terms, 1):
        lines.append(f"{number}: {ask(example.messages, [term])[0]}")
    return "\n".join(lines) + "\n"


def rewritten(page: str, ask: Ask) -> str:
    """The page with every text block as the server would have it now."""
    for example in examples(page):
        if example.text is not None:
            page = page.replace(
                _blocks(example.terms, example.text), _blocks(example.terms, answered(example, ask))
            )
    return page


def _blocks(terms: tuple[dict[str, Any], ...], text: str) -> str:
    lines = "".join(json.dumps(term) + "\n" for term in terms)
    return f"```json\n{lines}```\n\n```text\n{text}```"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the answers into the operators' pages.")
    parser.add_argument("url", help="of a server of examples/smol/operators.yaml")
    ask = asker(parser.parse_args().url)
    for path in sorted(PAGES.glob("*.md")):
        path.write_text(rewritten(path.read_text(encoding="utf-8"), ask), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
