"""Tables of the docs that are made from code: `python scripts/generated_docs.py [--write]`.

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`. Without --write the pages are
compared with the code, and exit code 1 says which differ.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(
    r"(?P<begin><!-- generated: (?P<name>[\w-]+) -->\n)(?P<table>.*?)(?P<end><!-- end -->)",
    re.DOTALL,
)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(
        "|" + "|".join(f" {cell} " if cell != "---" else cell for cell in line) + "|\n"
        for line in lines
    )


def verbs() -> str:
    """Return the verbs of the command line."""
    from pilothouse.cli.main import VERBS

    rows = [(f"`pilothouse {name}`", about) for name, (_, about) in VERBS.items()]
    return table(("verb", "what it does"), rows)


def refused_flags() -> str:
    """Return the flags of vLLM that are refused, each with its reason."""
    from pilothouse.engine.unsupported_flags import REFUSALS

    return table(("flag", "because"), [(f"`{each.flag}`", each.reason) for each in REFUSALS])


def refused_pairs() -> str:
    """Return the pairs of flags that are refused together."""
    from pilothouse.engine.unsupported_flags import UNTESTED_TOGETHER

    return table(
        ("one", "the other"), [(f"`{one}`", f"`{other}`") for one, other in UNTESTED_TOGETHER]
    )


def refused_variables() -> str:
    """Return the environment variables that are refused."""
    from pilothouse.engine.unsupported_flags import REFUSED_VARIABLES

    rows = [(f"`{name}`", reason) for name, reason in REFUSED_VARIABLES.items()]
    return table(("environment variable", "because"), rows)


def metrics() -> str:
    """Return every metric with its kind, labels and help text."""
    from pilothouse.telemetry.metrics import METRICS

    rows = [
        (f"`{name}`", each.kind, ", ".join(each.labels), each.help)
        for name, each in METRICS.items()
    ]
    return table(("name", "kind", "labels", "what"), rows)


def aggregators() -> str:
    """Return every kind of aggregator with its parameters, state and traits."""
    from pilothouse.aggregate import TRAITS
    from pilothouse.probes.aggregators import make_aggregator
    from pilothouse.types import Aggregate

    rows = []
    for kind, traits in TRAITS.items():
        ranges = [
            f"`{name}` {each.low:g} to {each.high:g}{', whole' * each.is_whole}"
            + (f", at most `{each.at_most}`" if each.at_most else "")
            for name, each in traits.parameters.items()
        ]
        example = {name: each.example for name, each in traits.parameters.items()}
        width = make_aggregator(replace(Aggregate(kind), **example)).state_width
        state = f"{width}"
        for sized in ("k_tokens", "window_tokens"):
            if sized in example:
                more = width - int(example[sized])
                state = f"`{sized}`" + (f" + {more}" if more else "")
        marks = ["yes" * traits.reads_end, "yes" * traits.falls_with_length]
        rows.append((f"`{kind}`", "; ".join(ranges), state, *marks))
    return table(("kind", "parameters", "numbers kept", "read at the end", "diluted"), rows)


def policy_fields() -> str:
    """Return the fields of a policy, from its schema."""
    from pilothouse.policy.schema import Policy

    return fields_of(Policy.model_json_schema(by_alias=True))


def probe_heads() -> str:
    """Return every kind of head: its fields, its options, its tensors, whether it pools."""
    from pilothouse.head import HIDDEN, TRAITS

    def tensors(traits: Any) -> str:
        hidden = HIDDEN if "hidden_width" in traits.fields else {}
        named = {**traits.tensors, **hidden}
        return ", ".join(f"`{name}` [{', '.join(axes)}]" for name, axes in named.items())

    rows = [
        (
            f"[`{kind}`](#{kind})",
            ", ".join(f"`{name}`" for name in sorted(traits.fields)) or "none",
            ", ".join(f"`{name}`" for name in sorted(traits.options)),
            tensors(traits),
            "all tokens so far" if traits.pools else "each token alone",
        )
        for kind, traits in TRAITS.items()
    ]
    return table(("`kind`", "fields", "may have", "tensors, float32", "a logit is of"), rows)


def config_fields() -> str:
    """Return the fields of pilothouse.yaml, from its schema."""
    from pilothouse.config import PilothouseConfig

    return fields_of(PilothouseConfig.model_json_schema(by_alias=True))


def fields_of(schema: dict[str, Any]) -> str:
    """Return each field of a JSON schema and of its parts, with its default."""
    rows = []
    for model, definition in [("", schema), *sorted(schema.get("$defs", {}).items())]:
        required = definition.get("required", ())
        for name, each in definition.get("properties", {}).items():
            default = "required" if name in required else shown(each.get("default"))
            rows.append((f"`{model or 'the file'}`", f"`{name}`", default))
    return table(("part", "field", "default"), rows)


def shown(default: Any) -> str:
    """Return a default as YAML has it; one that is a part of its own has rows of its own."""
    if isinstance(default, dict) and default:
        return "see its own rows"
    return f"`{json.dumps(default)}`"


TABLES: dict[str, Callable[[], str]] = {
    "aggregators": aggregators,
    "config-fields": config_fields,
    "metrics": metrics,
    "policy-fields": policy_fields,
    "probe-heads": probe_heads,
    "refused-flags": refused_flags,
    "refused-pairs": refused_pairs,
    "refused-variables": refused_variables,
    "verbs": verbs,
}


def generated(page: str) -> str:
    """Return the page with each generated table as the code has it now.

    Raises:
        KeyError: the page names a table that nothing makes.
    """
    return BLOCK.sub(lambda found: found["begin"] + TABLES[found["name"]]() + found["end"], page)


def main() -> int:
    """Compare or rewrite the pages."""
    parser = argparse.ArgumentParser(description="Compare tables of the docs with the code.")
    parser.add_argument("--write", action="store_true", help="rewrite the tables instead")
    write = parser.parse_args().write
    differ = []
    for path in sorted(DOCS.rglob("*.md")):
        page = path.read_text(encoding="utf-8")
        if generated(page) != page:
            differ.append(path.relative_to(DOCS.parent))
            if write:
                path.write_text(generated(page), encoding="utf-8")
    for path in differ:
        print(f"{path}: {'rewritten' if write else 'differs; run make docs ARGS=--write'}")
    return 1 if differ and not write else 0


if __name__ == "__main__":
    sys.exit(main())
