"""Fields of well-known sets of pairs, and the command that gives them our names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("question", "instruction", "input", "query", "context"),
    "positive": (
        "answer_matching_behavior",
        "chosen",
        "pos",
        "preferred",
        "good",
        "positive_text",
        "matching",
        "desired",
    ),
    "negative": (
        "answer_not_matching_behavior",
        "rejected",
        "neg",
        "dispreferred",
        "bad",
        "negative_text",
        "not_matching",
        "undesired",
    ),
    "messages": ("conversation", "conversations"),
    "answer": ("expected", "expected_answer", "target", "label", "output", "response"),
    "text": ("sentence", "content", "body", "document"),
}
"""Our field, and what others call it: CAA, preference data, chat data."""


def renamed(path: Path, found: Collection[str], fields: Collection[str]) -> str | None:
    """What to say of a file whose lines have another set's fields; None where it is none.

    Args:
        found: the names that each line has.
        fields: the names that a line may have.
    """
    names: dict[str, str] = {}
    for field in fields:
        known = [each for each in OTHER_NAMES.get(field, ()) if each in found]
        if field not in found and len(known) == 1:
            names[known[0]] = field
    if not names:
        return None
    is_csv = path.suffix.lower() == ".csv"
    # A name ends where it does not go on: `answer` is within `answer_matching_behavior`.
    one = "1s/\\b{}\\b/{}/" if is_csv else r's/"{}" *:/"{}":/'
    command = "; ".join(one.format(other, ours) for other, ours in names.items())
    missing = sorted(set(names.values()))
    return (
        f"{path}: lines have {', '.join(sorted(found))}; missing are {', '.join(missing)}, which "
        f"they call otherwise; rename: sed -i '{command}' {path.name}"
    )
