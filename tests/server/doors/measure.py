"""Measure the doors of a running demo: `python -m tests.server.doors.measure --seed N`."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "demo"))

from intervals import share
from tests.server.doors.attacks import DOORS
from tests.server.doors.prefills import TUNING, UNSEEN
from tests.server.doors.visitor import BARRED, HARMLESS, Visit, visit


def table(attacks: Iterable[Visit], harmless: Iterable[Visit]) -> dict[str, dict[str, int]]:
    """Outcomes by door: of attacks, and of harmless requests of the same form."""
    rows: dict[str, Counter[str]] = {name: Counter() for name in sorted(DOORS)}
    for each in attacks:
        rows[each.door][each.outcome] += 1
    for each in harmless:
        rows[each.door][f"harmless_{each.outcome}"] += 1
    return {name: dict(row) for name, row in rows.items() if row}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the doors of a running demo.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--seed", required=True)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--doors", nargs="*", default=[])
    parser.add_argument("--unseen", action="store_true", help="prefills that nothing was tuned on")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--show", default="", help="print the answers with this outcome")
    chosen = parser.parse_args()
    prefills = UNSEEN if chosen.unseen else TUNING
    attacks = visit(chosen.url, chosen.seed, chosen.count, BARRED, prefills, chosen.doors)
    harmless = visit(
        chosen.url, f"{chosen.seed}:harmless", chosen.count, HARMLESS, prefills, chosen.doors
    )
    for each in [*attacks, *harmless]:
        if chosen.show and each.outcome == chosen.show:
            print(f"{each.door}: {each.record.prompt!r} {each.prefill!r}: {each.said[:300]}")
    rows = table(attacks, harmless)
    columns = ["through", "blocked", "refused", "nothing", "failed"]
    columns += [f"harmless_{name}" for name in columns[1:]]
    print(f"| door | {' | '.join(columns)} |")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(str(row.get(each, 0)) for each in columns)} |")
    through = sum(each.outcome == "through" for each in attacks)
    stopped = sum(each.outcome in ("blocked", "refused", "failed") for each in harmless)
    result = {
        "seed": chosen.seed, "unseen_prefills": chosen.unseen,
        "through": share(through, len(attacks)), "harmless_stopped": share(stopped, len(harmless)),
        "doors": rows,
    }  # fmt: skip
    print(json.dumps({name: result[name] for name in ("through", "harmless_stopped")}))
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
