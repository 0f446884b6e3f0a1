"""The card of the demo's SAE, from stored figures: none is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from card import percent, table

LIMITS = """## Limits

- It is an SAE of a toy: a model of three million parameters and its invented world. It shows that
  files, edits and features go through the engine; it is evidence about no other model.
- Layer {layer} is the last but one: many features stand for the token about to be said. Only the
  edits above are measured; another label says what a feature goes with, not what setting it does.
- Edits are frozen for prompts of the kinds named. On others they do what they do: measure first.
- A code's largest value is over the training texts; a share of it means nothing on other text.
"""


def interval(cell: dict[str, float]) -> str:
    return f"{cell['estimate']:.4g} ({cell['low']:.4g} to {cell['high']:.4g})"


def edit_words(edit: dict[str, Any]) -> str:
    place = "last prompt token" if edit.get("positions") == "last_prompt" else edit["on"]
    return f"{edit['op']} {edit['value']:g} of max, {place}"


def card(folder: Path) -> str:
    """The README of an SAE's folder."""
    recipe, edits, found = (
        json.loads((folder / name).read_text())
        for name in ("recipe.json", "edits.json", "evaluation.json")
    )
    versions = ", ".join(f"{name} {number}" for name, number in recipe["versions"].items())
    trained = (
        f"{recipe['tokens']} tokens, {recipe['epochs']} times: prompts of the split "
        f"`{recipe['split']}` and the model's own answers"
    )
    head = f"""# SAE `{folder.name}`

A JumpReLU SAE of `pilothouse-demo`: the stream behind block {recipe["layer"]} (`resid_post`),
{recipe["features"]} features. SAELens' files; largest codes in `features.safetensors`, names in
`labels.json`.

| | |
| --- | --- |
| made by | `{recipe["created_by"]}`, seed {recipe["seed"]} |
| architecture | {recipe["architecture"]}, widths {recipe["matryoshka_widths"]}, k {recipe["k"]:g} |
| trained on | {trained} |
| SHA-256 of the tokens | `{recipe["tokens_sha256"]}` |
| SHA-256 of the weights | `{edits["weights_sha256"]}` |
| versions | {versions} |
| never on in training | {found["never_on_in_training"]} of {recipe["features"]} features |
| `average_norm` | {edits["average_norm"]}, the mean length of the stream at the tap |

## What it explains

Fresh texts, seed {found["seed"]}; 95% bootstrap intervals over texts. The loss is of the answers'
tokens; recovered: 1 is the stream itself, 0 its mean in its place.

"""
    return "\n".join(
        [
            head + explained(found["reconstruction"]),
            named(edits, found),
            left(edits),
            LIMITS.format(layer=recipe["layer"]),
        ]
    )


def explained(found: dict[str, Any]) -> str:
    wanted = {
        "l0": "features on, a token",
        "explained_variance": "explained variance",
        "loss": "loss",
        "loss_reconstructed": "loss, reconstructed",
        "loss_recovered": "loss recovered",
    }
    rows = [
        [said, *(interval(each[key]) for each in found.values())] for key, said in wanted.items()
    ]
    rows.append(
        ["never on", *(f"{each['never_on']} of {each['features']}" for each in found.values())]
    )
    rows.append(
        ["texts, tokens", *(f"{each['texts']}, {each['tokens']}" for each in found.values())]
    )
    return table(["", *found], rows)


def named(edits: dict[str, Any], found: dict[str, Any]) -> str:
    """The frozen edits and what became of fresh prompts."""
    rows = []
    for at, edit in enumerate(edits["edits"]):
        cells = [found["edits"][split]["edits"][at] for split in found["edits"]]
        rows.append(
            [
                f"`{edit['outcome']}`",
                str(edit["feature"]),
                f"{edit['auroc']:.3f}",
                edit_words(edit),
                *(percent(each["effect"]) for each in cells),
                *(percent(each["control"]) for each in cells),
            ]
        )
    both = [found["edits"][split]["all"] for split in found["edits"]]
    rows.append(
        [
            "all",
            "",
            "",
            "",
            *(percent(each["effect"]) for each in both),
            *(percent(each["control"]) for each in both),
        ]
    )
    splits = list(found["edits"])
    head = [
        "outcome",
        "feature",
        "AUROC",
        "edit",
        *splits,
        *(f"control, {each}" for each in splits),
    ]
    return (
        "## Named features\n\nNamed, chosen and frozen on the split `train` by "
        f"`{edits['created_by']}`, which states the rule; then tried once on prompts of the other "
        "splits, through the engine. Shares: replies with the outcome, of those that have it not "
        "unedited. Control: a live feature drawn by lot, set as far at the same place.\n\n"
        + table(head, rows)
    )


def left(edits: dict[str, Any]) -> str:
    """What was tried and not frozen."""
    if not edits["not_frozen"]:
        return ""
    told = ", ".join(
        f"`{each['outcome']}` ({percent(each['confirmed'])})"
        if each["feature"] is not None
        else f"`{each['outcome']}` (no edit did it)"
        for each in edits["not_frozen"]
    )
    return (
        f"Not frozen, since on the training split the best edit was below "
        f"{edits['frozen_from']:.0%}: {told}.\n"
    )
