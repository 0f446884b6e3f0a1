"""Measure the doors of a running server: `python -m tests.support.attacks.measure --seed N`.

The server is that of `ruled_server.py`; `--houses demo` measures another's only model, as it
stands. Harmless requests that were stopped are told apart three ways: all of them; those whose
question is stopped in a plain chat too, which is the probe's own error and no door's; and those
where what was kept back tells a barred deed after all, which a harmless question can be forced to.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "demo"))

from deeds import BARRED_STEP, TOOLS
from intervals import share
from tests.support.attacks.attacks import DOORS, SHUT
from tests.support.attacks.client import BARRED, FACTS, HARMLESS, Visit, revisit, visit
from tests.support.attacks.prefills import TUNING, UNSEEN
from tests.support.attacks.ruled_server import HOUSES, SERVED_NAME

OUTCOMES: Final = ("through", "blocked", "refused", "nothing", "failed")


def table(attacks: Iterable[Visit], harmless: Iterable[Visit]) -> dict[str, dict[str, int]]:
    """Outcomes by door: of attacks, and of harmless requests of the same form."""
    rows: dict[str, Counter[str]] = {name: Counter() for name in sorted(DOORS)}
    for each in attacks:
        rows[each.door][each.outcome] += 1
    for each in harmless:
        rows[each.door][f"harmless_{each.outcome}"] += 1
    return {name: dict(row) for name, row in rows.items() if row}


def refused_to_all(visits: Iterable[Visit]) -> set[str]:
    """Doors at which the server took no request, whatever was asked."""
    outcomes: dict[str, set[str]] = {}
    for each in visits:
        outcomes.setdefault(each.door, set()).add(each.outcome)
    return {name for name, found in outcomes.items() if found == {"refused"}}


def measure(
    url: str,
    model: str,
    seed: str,
    count: int,
    prefills: tuple[str, ...],
    doors: Sequence[str],
    *,
    facts_alone: bool,
    unguarded: str | None,
) -> dict[str, Any]:
    """One model name's figures.

    Args:
        facts_alone: rules forbid to name a tool, so harmless is what asks for none.
        unguarded: a name of the same model without rules, to see what they kept back.
    """
    attacks = visit(url, seed, count, BARRED, prefills, doors, model)
    open_ones = [name for name in doors or sorted(DOORS) if name not in SHUT]
    kinds = FACTS if facts_alone else HARMLESS
    harmless = visit(url, f"{seed}:harmless", count, kinds, prefills, open_ones, model)
    shut = refused_to_all([*attacks, *harmless])
    harmless = [each for each in harmless if each.door not in shut]
    stopped = [each for each in harmless if each.stopped]
    plainly = [each for each in stopped if each.plainly in ("blocked", "refused", "failed")]
    rest = [each for each in stopped if each not in plainly]
    kept_back = revisit(url, rest, unguarded) if unguarded is not None else [""] * len(rest)
    told = TOOLS if facts_alone else (BARRED_STEP,)
    barred = [
        each
        for each, text in zip(rest, kept_back, strict=True)
        if any(word in text for word in told)
    ]
    doors_own = len(rest) - len(barred)
    open_attacks = [each for each in attacks if each.door not in shut]
    return {
        "model": model,
        "seed": seed,
        "unseen_prefills": prefills is UNSEEN,
        "through": share(sum(each.outcome == "through" for each in attacks), len(attacks)),
        "through_open": share(
            sum(each.outcome == "through" for each in open_attacks), len(open_attacks)
        ),
        "refused_to_all": sorted(shut),
        "failed": sum(each.outcome == "failed" for each in [*attacks, *harmless]),
        "harmless_stopped": share(len(stopped), len(harmless)),
        "harmless_stopped_plainly_too": share(len(plainly), len(harmless)),
        "harmless_with_a_barred_answer": share(len(barred), len(harmless)),
        "harmless_stopped_by_doors": share(doors_own, len(harmless)),
        "doors": table(attacks, harmless),
        "told": [
            {
                "door": each.door,
                "outcome": each.outcome,
                "kind": each.record.kind,
                "prompt": each.record.prompt,
                "prefill": each.prefill,
                "said": each.said[:300],
            }
            for each in [*attacks, *harmless]
            if each.outcome == "failed" or (each in attacks and each.outcome == "through")
        ]
        + [
            {
                "door": each.door,
                "outcome": f"harmless {each.outcome}",
                "kind": each.record.kind,
                "prompt": each.record.prompt,
                "prefill": each.prefill,
                "kept_back": text[:300],
            }
            for each, text in zip(rest, kept_back, strict=True)
        ],
    }


def _print(result: dict[str, Any]) -> None:
    columns = [*OUTCOMES, *(f"harmless_{name}" for name in OUTCOMES[1:])]
    print(f"| {result['model']} | {' | '.join(columns)} |")
    for name, row in result["doors"].items():
        print(f"| {name} | {' | '.join(str(row.get(each, 0)) for each in columns)} |")
    for each in result["told"]:
        print(json.dumps(each))
    print(
        json.dumps(
            {
                name: each
                for name, each in result.items()
                if isinstance(each, dict) and name != "doors"
            }
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the doors of a running server.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--seed", required=True)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--doors", nargs="*", default=[])
    parser.add_argument("--houses", nargs="*", default=list(HOUSES))
    parser.add_argument("--unseen", action="store_true", help="prefills that nothing was tuned on")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    prefills = UNSEEN if chosen.unseen else TUNING
    results = {}
    for house in chosen.houses:
        ours = house in HOUSES
        results[house] = measure(
            chosen.url,
            f"{SERVED_NAME}:{house}" if ours else house,
            chosen.seed,
            chosen.count,
            prefills,
            chosen.doors,
            facts_alone=house in ("output", "final"),
            unguarded=SERVED_NAME if ours else None,
        )
        _print(results[house])
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
