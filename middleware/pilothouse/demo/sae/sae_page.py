"""Writes the card of the real model's SAE as a page."""

from __future__ import annotations

from typing import Final

from pilothouse.artifacts.manifest import Interval
from pilothouse.artifacts.saes.registry import FEATURES_FILE, LABELS_FILE
from pilothouse.demo.sae.edits import terms_of
from pilothouse.demo.sae.labels import SHARE, STRONGEST
from pilothouse.demo.sae.recipe import OUTLIER
from pilothouse.demo.sae.sae_card import Detection, EditCard, SaeCard, is_shown

REMAKE: Final = "python -m pilothouse.demo.sae"
PUBLISHED: Final = (
    "| juiceb0xc0de/smollm2-135m-instruct-SAE, all layers: published, not checked by us | 18432 | "
    "50 | 0.94 to 0.97 |"
)


def readme(card: SaeCard) -> str:
    """Return the page, in Markdown."""
    parts = [
        f"# SAE `{card.name}`",
        _about(card),
        _made(card),
        _sources(card),
        _explains(card),
        _labels(card),
        _edits(card),
        _examples(card),
        _limits(card),
        f"Remade by `{REMAKE}`, which writes weights, labels, figures and this page.",
    ]
    return "\n\n".join(each for each in parts if each) + "\n"


def profile(card: SaeCard, edit: EditCard) -> str:
    """Return the lines of a pilothouse.yaml that serve an edit."""
    lines = []
    for each in terms_of(card.name, edit.name, edit.value):
        told = each.model_dump(mode="json", exclude_defaults=True)
        place = "on: prompt, positions: last_prompt" if "positions" in told else "on: output"
        lines.append(
            f'    - {{sae: {each.sae}, feature: "{each.feature}", op: {each.op}, '
            f"value: {each.value:g}, {place}}}"
        )
    return "\n".join([f'"smol:{profile_name(edit)}":', "  steer:", *lines])


def profile_name(edit: EditCard) -> str:
    """Return what a profile of an edit is called: its label in one word."""
    return edit.name.replace(" ", "-")


def _about(card: SaeCard) -> str:
    recipe = card.recipe
    return (
        f"A JumpReLU SAE of {card.model_id} ({card.weights}): the stream behind block "
        f"{recipe.layer} (`resid_post`), {recipe.features} features, {card.weights_bytes:,} bytes "
        f"of weights. SAELens' files; largest codes in `{FEATURES_FILE}`, names in "
        f"`{LABELS_FILE}`. Made by `{REMAKE}` on one core; no figure is written by hand."
    )


def _made(card: SaeCard) -> str:
    recipe = card.recipe
    widths = f", widths {list(recipe.widths)}" if recipe.widths else ""
    rows = {
        "architecture": f"{recipe.architecture}{widths}, k {recipe.k:g}; seed {recipe.seed}",
        "trained on": f"{card.training_tokens:,} tokens, {recipe.epochs} times",
        "left out": (
            f"the first token of every text, the template's words before a chat's question, and "
            f"{card.left_out_tokens} tokens whose stream is longer than {OUTLIER:g} times the "
            "median"
        ),
        "SHA-256 of the weights": f"`{card.weights_sha256}`",
        "`average_norm`": f"{card.average_norm}, the mean length of the stream at the tap",
        "versions": ", ".join(f"{name} {each}" for name, each in card.versions.items()),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {each} |" for key, each in rows.items())])


def _sources(card: SaeCard) -> str:
    lines = [
        "## Text\n",
        "Read out of pinned wheels at run time; nothing of it lies here but the words below. Dealt "
        "out whole, by title: held-out text was not trained on.\n",
        "| set | wheel | texts by | texts, tokens | held out | SHA-256 of the set |",
        "|---|---|---|---:|---:|---|",
    ]
    for each in card.sources:
        lines.append(
            f"| {each.name}{', in chats' * each.is_asked} | {each.wheel}, {each.licence} | "
            f"{each.upstream} | {each.texts}, {each.tokens:,} | "
            f"{each.held_out_texts}, {each.held_out_tokens:,} | `{each.digest[:16]}` |"
        )
    lines.append("\nOf the chats the questions are the set's, the answers the model's own.")
    return "\n".join(lines)


def _explains(card: SaeCard) -> str:
    found, recipe = card.reconstruction, card.recipe
    variance = found.explained_variance
    return "\n".join(
        [
            "## What it explains\n",
            f"{found.texts} held-out texts, {found.tokens:,} tokens; 95% bootstrap intervals over "
            "texts.\n",
            "| | |",
            "|---|---|",
            f"| features on, a token (L0) | {_interval(found.l0, 1)} |",
            f"| explained variance | {_interval(variance, 4)} |",
            f"| loss, nats a token | {found.loss:.3f} |",
            f"| with the reconstruction in its place | {found.loss_reconstructed:.3f} |",
            f"| with the mean in its place | {found.loss_mean:.3f} |",
            f"| loss recovered | {_interval(found.loss_recovered, 4)} ({found.loss_texts} texts, "
            f"{found.loss_tokens:,} tokens) |",
            f"| never on here | {found.dead} of {recipe.features} |",
            f"| never on in training | {found.dead_in_training} of {recipe.features} |",
            "\nBeside others of this model:\n",
            "| SAE | features | L0 or k | explained variance |",
            "|---|---:|---:|---:|",
            f"| `{card.name}`, held-out text | {recipe.features} | {found.l0.estimate:.0f} | "
            f"{variance.estimate:.3f} |",
            PUBLISHED,
        ]
    )


def _labels(card: SaeCard) -> str:
    tested = [each.detection for each in card.labels if each.detection is not None]
    lines = [
        f"## {len(card.labels)} labels\n",
        "A label is a class of words that was written down before the SAE was trained "
        "(`middleware/pilothouse/demo/sae/concepts.py`). A feature can have it where at least "
        f"{100 * SHARE:.0f}% of its {STRONGEST} strongest contexts in the training's text lie "
        "within reach of such a word; of those that can, the one has it whose code tells the class "
        "best there. *Reach*: 0 for the word itself, 8 for up to 8 tokens from it. *AUROC*: on "
        "held-out text, of tokens within reach against all others, by the feature's code, with its "
        "95% bootstrap interval over texts; *by lot*: the mean of five features without a label "
        "that are on as often. *By text*: a text that has the words against one that has none, by "
        "the largest code. *Found*: share of tokens within reach where 5% of the others are taken "
        "for some. A list of the words finds all of them: the figures say how well one feature "
        "stands for its label, not that it is a good detector.\n",
        "| label | feature | reach | strongest contexts in reach | AUROC | by lot | by text | "
        "found | tokens in reach | strongest tokens |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for each in card.labels:
        lines.append(
            f"| {each.name} | {each.feature} | {each.reach} | {100 * each.share:.0f}% | "
            f"{_detection(each.detection)} | {_words(each.strongest)} |"
        )
    if tested:
        mean = sum(each.auroc.estimate for each in tested) / len(tested)
        lot = sum(each.by_lot for each in tested) / len(tested)
        above = sum(each.auroc.low > each.by_lot for each in tested)
        lines.append(
            f"\nMean AUROC {mean:.3f}, by lot {lot:.3f}; {above} of {len(tested)} intervals lie "
            "above the features by lot."
        )
    return "\n".join(lines)


def _detection(found: Detection | None) -> str:
    if found is None:
        return "no such word | | | | "
    by_text = "" if found.text_auroc is None else f"{found.text_auroc:.3f}"
    return (
        f"{_interval(found.auroc, 3)} | {found.by_lot:.3f} | {by_text} | "
        f"{100 * found.found_at_five_percent:.0f}% | {found.positive} of {found.tokens}"
    )


def _edits(card: SaeCard) -> str:
    if not card.edits:
        return (
            "## Edits: not measured\n\nNo feature was set in answers: labels say what features go "
            "with, not what setting them does."
        )
    shown = [each for each in card.edits if is_shown(each)]
    lines = [
        f"## Edits: {len(shown)} shown\n",
        "A label's feature is set to one code at the prompt's last token and in every token of the "
        "answer. An answer counts as changed when it has more different words of the label than "
        "the plain answer to the same question, and more than nine in ten plain answers have "
        "(*bar*), and does not repeat itself. "
        f"Of the {card.screened} labels that are told best strengths were tried on "
        f"{card.choosing} open questions; the {len(card.edits)} that changed most are "
        f"tested here on {card.testing} others. *By lot*: "
        f"{card.draws} features without a label, each set to a code of the same length on its "
        "share of the same questions. Shown: at least half of the answers change, and the interval "
        "lies above that of the features by lot.\n",
        "| label | strength | value | bar | changed | by lot | words, plain to edited | "
        "perplexity | repeats | holds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for each in card.edits:
        lines.append(
            f"| {each.name} | {each.strength:g} | {each.value:g} | {each.bar:g} | "
            f"{_share(each.edited.changed)} of {each.edited.n} | "
            f"{_share(each.random.changed)} of {each.random.n} | "
            f"{each.plain:.2f} to {each.reached:.2f} | x{_interval(each.perplexity_ratio, 1)} | "
            f"{100 * each.edited.degenerate:.0f}% | {'yes' if is_shown(each) else 'not shown'} |"
        )
    rest = [each.name for each in card.labels if each.name not in {one.name for one in card.edits}]
    if rest:
        lines.append(
            f"\nNot shown, since they were not tried or others changed more: {', '.join(rest)}. "
            "Their labels say what the features go with, not what setting them does."
        )
    return "\n".join(lines)


def _examples(card: SaeCard) -> str:
    parts = []
    for edit in card.edits:
        if not is_shown(edit):
            continue
        said = [
            line
            for each in edit.examples
            for line in (
                f"> **{_line(each.question)}**",
                f"> plain: {_line(each.plain)}",
                f"> {edit.name}: {_line(each.steered)}",
            )
        ]
        parts.append(
            f"### {edit.name}\n\n```yaml\n{profile(card, edit)}\n```\n\n" + "\n>\n".join(said)
        )
    if not parts:
        return ""
    return "The first test questions of each edit that is shown, nothing picked:\n\n" + "\n\n".join(
        parts
    )


def _limits(card: SaeCard) -> str:
    return (
        "## Limits\n\n"
        f"- It has seen {card.training_tokens:,} tokens; published SAEs see hundreds of millions. "
        "It knows English of encyclopedias, plots, everyday scenes and this model's own "
        "answers.\n"
        "- It does not know a conversation's first tokens: what it reads there means nothing.\n"
        "- A label is a class of words; that a feature goes with it does not say that it means "
        "nothing else.\n"
        f"- Edits were measured on short greedy answers of {card.model_id} alone."
    )


def _interval(value: Interval, digits: int) -> str:
    low, high = f"{value.low:.{digits}f}", f"{value.high:.{digits}f}"
    return f"{value.estimate:.{digits}f} [{low}, {high}]"


def _share(value: Interval) -> str:
    return f"{100 * value.estimate:.0f}% [{100 * value.low:.0f}, {100 * value.high:.0f}]"


def _words(words: tuple[str, ...]) -> str:
    return ", ".join(_line(each) for each in words)


def _line(text: str) -> str:
    """Return one line of Markdown that shows the text as it is."""
    flat = " ".join(text.split())
    for mark in "\\*_`<>[]|#":
        flat = flat.replace(mark, f"\\{mark}")
    return flat
