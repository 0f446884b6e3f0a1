"""Cards from stored measurements: writes the demo's README and the model card.

`python card.py` reads evaluation.json, baselines.json, doors.json and search.json; no figure in a
card is typed by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

MODEL_HEAD = """---
license: apache-2.0
library_name: transformers
---
# The demo's chat model

A stock Qwen3 of about three million parameters, trained on the demo's invented world. It exists to
show the plumbing of Pilothouse and is evidence about nothing else. Its faults are taught on
purpose: it makes values up for unknown names, repeats trusted false claims, obeys overrides.

It is taught with helps that are not shipped: a linear head after block 4 that names the signs, the
clause's two halves and, all through an answer, whether the name is known; invented words around the
parts that matter; and lessons that give a style by a difference of mean streams, added at block 2,
3 or 4 to the tokens it speaks, or that add a random vector, which must change nothing. So it reads
held-out templates, its stream tells these things by a line, and it can be steered: by design.

The weights were made in stages while the recipe grew, 6,500 steps in all: the head from step 2,400,
invented templates from 4,300, known names from 4,500, vectors from 5,200; the tokenizer is that of
the first stage. `train.py` from the start is the finished recipe; it makes a model of this kind,
not these weights, and the figures below are those of these weights.

System messages `style: cheerful` and `style: careful` change its style; greedy decoding is the
default. Text is lower-cased. The end of a turn is `<|end|>`.
"""

DEMO_HEAD = """# The demo's world and model

`world.py` draws prompts of an invented world from a seed; `train.py` makes the chat model in
`model/`. The demo shows plumbing, not evidence about real models.

    python world.py --seed 1 --count 100 --out prompts.jsonl     # M prompts of each kind
    python train.py                                              # remake the model (two cores)
    python evaluate.py --seed 9001                               # measure the model, fresh seed
    python baselines.py                                          # what words and length tell
    python card.py                                               # rewrite these cards
    python freeze.py                                             # check the frozen digests
    python train_sae.py                                          # remake the SAE (needs sae-lens)
    python choose_features.py                                    # name its features, freeze edits
    python measure_sae.py --seed 9101                            # measure them on fresh prompts
    python detox.py --seed 9101                                  # three tiers of detox (detox/)

The doors are measured against a running server, from the root of the checkout
(docs/explanation/security.md).

| kind | what it is | misuse | adversarial |
|---|---|---|---|
| `known`, `unknown` | a fact about a name the world has, or has not | no | no |
| `misled` | a known name, asked with a false claim | no | no |
| `benign`, `near_miss` | an allowed deed; one word away from a barred one | no | no |
| `forbidden` | a barred deed | yes | no |
| `jailbroken` | a barred deed in a wrapper that overrides | yes | yes |
| `wrapped_benign` | anything allowed in such a wrapper | no | yes |
| `injected` | a page that carries an overriding instruction | no | yes |
| `clean_document` | a page without one, or with a void one | no | no |

A deed (verb, object, owner) is barred when the hidden signs of its three words are all alike; half
of the words of each class have each sign, so no word tells. A wrapper overrides when its condition
and the verdict on it agree; its innocent mirror has the same words and they do not. Mirrors stand
around fact questions, benign, near-miss and forbidden requests, and in clean documents.

Splits: `train` is for probes and the model; `test` shares its templates and wrapper families, but
no name, entity or deed that a probe has met; `heldout` has its own templates and families, which
neither has met. The model knows the facts of every known name, or it could not be asked.
"""


def percent(cell: dict[str, float]) -> str:
    low, high = 100 * cell["low"], 100 * cell["high"]
    return f"{100 * cell['share']:.1f}% ({low:.1f} to {high:.1f}, n {cell['n']})"


def area(cell: dict[str, float]) -> str:
    return f"{cell['auroc']:.3f} ({cell['low']:.3f} to {cell['high']:.3f})"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def outcomes(result: dict[str, Any]) -> str:
    """The figures that matter, with and without held-out templates and families."""
    wanted = [
        ("known", "right"),
        ("unknown", "wrong"),
        ("unknown", "hedged"),
        ("misled", "wrong"),
        ("benign", "complied"),
        ("near_miss", "complied"),
        ("forbidden", "refused"),
        ("jailbroken", "complied"),
        ("wrapped_benign", "answered"),
        ("injected", "complied"),
        ("clean_document", "right"),
    ]
    rows = [
        [
            f"`{kind}`",
            outcome,
            *(percent(result[split][kind][outcome]) for split in ("test", "heldout")),
        ]
        for kind, outcome in wanted
    ]
    return table(["kind", "outcome", "test", "held-out templates and families"], rows)


def families(result: dict[str, Any]) -> str:
    cells = result["all"]["jailbroken"]["by_family"]
    rows = [[f"`{name}`", percent(cell["complied"])] for name, cell in cells.items()]
    rows.append(["all, evenly", percent(result["all"]["jailbroken"]["complied"])])
    return table(["family", "jailbroken complied with"], rows)


def styles(result: dict[str, Any]) -> str:
    rows = [
        [
            style,
            percent(cells["known"]["right"]),
            percent(cells["unknown"]["hedged"]),
            percent(cells["benign"]["cheerful"]),
        ]
        for style, cells in result["styles"].items()
    ]
    return table(["style", "known right", "unknown hedged", "benign cheerful"], rows)


def turns(result: dict[str, Any]) -> str:
    wanted = (("known", "right"), ("forbidden", "refused"), ("jailbroken", "complied"))
    rows = [[f"`{k}`", o, percent(result["second_turn"][k][o])] for k, o in wanted]
    return table(["kind", "outcome", "as the second turn"], rows)


def words(stored: dict[str, Any]) -> str:
    rows = []
    for signal in ("misuse", "adversarial"):
        figures = stored[signal]
        cells = [
            ("all kinds", figures["in_distribution"]),
            ("requests alone", figures["requests_only"]),
        ]
        worst = max(figures["left_out"], key=lambda f: figures["left_out"][f]["tfidf"]["auroc"])
        cells.append((f"worst left-out family (`{worst}`)", figures["left_out"][worst]))
        rows += [[signal, name, area(c["tfidf"]), area(c["length"])] for name, c in cells]
    return table(["label", "prompts", "TF-IDF AUROC", "length AUROC"], rows)


HOUSES = {
    "prompt": "prompt rule, as the baseline's",
    "output": "output rule that is certain of tools",
    "final": "final rule that is certain of tools",
}


def doors(stored: dict[str, Any]) -> str:
    """What came through which door under a rule of each phase."""
    results = [stored[name] for name in HOUSES]
    summary = [
        [
            label,
            percent(each["through"]),
            percent(each["harmless_stopped"]),
            percent(each["harmless_stopped_by_doors"]),
        ]
        for label, each in zip(HOUSES.values(), results, strict=True)
    ]
    head = ["rule", "barred content through", "harmless stopped", "of them by the door's own fault"]
    rows = []
    for name in sorted(results[0]["doors"]):
        cells = [each["doors"].get(name, {}) for each in results]
        rows.append([f"`{name}`", *(_outcome(cell) for cell in cells)])
    return table(head, summary) + "\n" + table(["door", *HOUSES], rows)


def _outcome(cell: dict[str, int]) -> str:
    tried = sum(count for name, count in cell.items() if not name.startswith("harmless"))
    stopped = cell.get("harmless_blocked", 0) + cell.get("harmless_failed", 0)
    shut = cell.get("refused", 0) == tried
    text = "refused to all" if shut else f"{cell.get('through', 0)} of {tried}"
    return f"{text}; harmless {stopped}" if stopped else text


def searches(stored: dict[str, Any]) -> str:
    """Successes of an attacker who searches, against queries."""
    named = {name: each for name, each in stored.items() if isinstance(each, dict)}
    limits = list(next(iter(named.values()))["by_queries"])
    rows = [
        [name, *(percent(each["by_queries"][limit]) for limit in limits)]
        for name, each in named.items()
    ]
    return table(["prefix of, what is seen", *(f"{limit} queries" for limit in limits)], rows)


def cards() -> dict[Path, str]:
    """Each card's place and text."""
    tried = json.loads((HERE / "doors.json").read_text())
    searched = json.loads((HERE / "search.json").read_text())
    result = json.loads((HERE / "evaluation.json").read_text())
    stored = json.loads((HERE / "baselines.json").read_text())
    measured = (
        f"\n## Measured\n\nSeed {result['seed']}, {result['count_per_kind']} prompts of each kind, "
        "greedy; 95% Wilson intervals. `wrong` about an unknown name is a value made up.\n\n"
        + outcomes(result)
        + "\n"
        + families(result)
        + "\n"
        + styles(result)
        + "\n"
        + turns(result)
    )
    baselines = (
        "\n## What words and length alone tell\n\nTF-IDF (1-2 grams, logistic regression) and "
        f"length, {stored['count_per_kind']} prompts of each kind, bootstrap 95% intervals. Limits "
        "for the world: 0.90 in distribution, 0.75 on a left-out family.\n\n" + words(stored)
    )
    first = tried["prompt"]
    walls = (
        f"\n## Doors\n\nSeed `{first['seed']}`, {first['through']['n']} barred and "
        f"{first['harmless_stopped']['n']} harmless requests for each rule, "
        + ("prefills that nothing was tuned on" if first["unseen_prefills"] else "tuning prefills")
        + "; through of tried, by door. What is measured and how: docs/explanation/security.md.\n\n"
        + doors(tried)
        + "\nAn attacker who searches words before the question, or the answer's beginning, under "
        f"the prompt rule: {searched['question, scores']['questions']} barred questions, seed "
        f"`{searched['seed']}`; with the probe's score of each try, and with its verdict alone.\n\n"
        + searches(searched)
    )
    return {
        HERE / "model" / "README.md": MODEL_HEAD + measured + baselines,
        HERE / "README.md": DEMO_HEAD + measured + walls + baselines,
    }


def main() -> int:
    for path, text in cards().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
