"""Writes cards of vectors as pages: one beside each vector, and one table of all.

Everything on them is out of the cards, so that no figure is written by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pilothouse.artifacts.manifest import Interval
from pilothouse.demo.places import steering_in_words, terms_of
from pilothouse.demo.vector_card import (
    AIM_CHANGED,
    AIM_CONTROLS,
    AIM_FACTS,
    Against,
    PoleCard,
    Readable,
    Tried,
    VectorCard,
    is_shown,
)

REMAKE: Final = "python -m pilothouse.demo.card"
HEAD: Final = (
    "profile",
    "changed",
    "random",
    "shuffled",
    "asked in words",
    "effect",
    "facts kept",
    "perplexity",
    "repeats",
    "holds",
)
TRIED_HEAD: Final = (
    "steering",
    "dose",
    "questions",
    "way to the bar",
    "changed",
    "repeats",
    "facts kept",
    "perplexity",
)


def readme(card: VectorCard) -> str:
    """Return the page of one vector, in Markdown."""
    parts = [f"# {card.name}", _about(card), _table([card])]
    if card.notes:
        parts.append("\n".join(f"- {each}" for each in card.notes))
    for pole in card.poles:
        parts += [f"## {pole.name}", _pole(card, pole)]
    parts.append(f"Remade by `{_remake(card)}`.")
    return "\n\n".join(parts) + "\n"


def overview(cards: Sequence[VectorCard]) -> str:
    """Return the page of all vectors, in Markdown."""
    [first, *_] = cards
    lines = [
        f"# Vectors of {first.model_id}",
        f"Figures of the {first.weights}. Made by `{REMAKE}`, which writes this page; no figure is "
        "written by hand. Each vector's folder has its own page with what was tried and the first "
        "answers.",
        _table(cards),
        f"Aimed at: {_percent(AIM_CHANGED)} changed, at most {_percent(AIM_CONTROLS)} by controls, "
        f"{_percent(AIM_FACTS)} of facts kept. A vector's page says what is not reached.",
        "- *changed*: share of test questions whose answer lies beyond what nine in ten plain "
        "answers reach, and the judge's margin beyond the plain answer of its own question, and "
        "does not repeat itself; with its 95% interval (Wilson). Of plain answers one in ten lies "
        "there, whatever the judge: a margin alone is passed by chance too often (mood moved by "
        "0.2 of VADER's compound in a third of answers under any direction).\n"
        "- *random*, *shuffled*: the same for directions that nobody chose, and for refits on "
        "states whose sides were dealt out anew, of equal lengths and doses at the same place.\n"
        "- *asked in words*: the same for the unsteered model when the question ends with what is "
        "wanted, in words.\n"
        "- *effect*: mean move of the judge's number towards the pole, with its 95% interval "
        "(bootstrap over questions).\n"
        "- *facts kept*: of questions that the unsteered model answers right, the share that it "
        "still does.\n"
        "- *perplexity*: of the steered answers over that of the plain ones, both under the "
        "unsteered model.\n"
        "- *repeats*: share of answers that repeat themselves or are empty (of the plain ones).\n"
        "- *holds*: at least half change, and the interval lies above those of both controls. "
        "A pole whose interval lies above both controls' shares has a profile in the demo.",
        _judges(cards),
    ]
    return "\n\n".join(lines) + "\n"


def profile(card: VectorCard, pole: PoleCard) -> str:
    """Return the lines of a pilothouse.yaml that serve this pole."""
    terms = [
        each.model_dump(mode="json", exclude_defaults=True)
        for each in terms_of(card.name, pole.steering)
    ]
    lines = [
        "{" + ", ".join(f"{key}: {_flow(value)}" for key, value in each.items()) + "}"
        for each in terms
    ]
    return "\n".join([f'"smol:{pole.name}":', "  steer:", *(f"    - {each}" for each in lines)])


def _flow(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(each)}" for key, each in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _remake(card: VectorCard) -> str:
    return f"{REMAKE} --only {card.name} --testing {card.testing} --seed {card.seed}"


def _about(card: VectorCard) -> str:
    return (
        f"{card.name} against {card.negative}: {card.method} of {card.pairs} pairs "
        f"(`examples/smol/pairs/{card.name}.jsonl`) of {card.model_id} ({card.weights}). "
        f"Judge: {card.measure}; an answer counts as changed when that lies beyond what nine in "
        f"ten plain answers reach, by at least {card.margin:g} beyond the plain answer of its own "
        f"question, and the answer does not repeat itself. {card.testing} questions test that "
        f"were never fitted on, {card.choosing} others set the bar and chose where the vector "
        f"edits, how and how strongly; answers are greedy, of at most {card.max_tokens} tokens, "
        f"those to questions for a fact of {card.fact_tokens}. Seed {card.seed}."
    )


def _pole(card: VectorCard, pole: PoleCard) -> str:
    findings = [f"- Not reached: {each}." for each in pole.findings] or ["- All aims are reached."]
    shown = f"```yaml\n{profile(card, pole)}\n```"
    kind = "open questions" if pole.asked == "open" else "questions for a fact"
    means = (
        f"On {kind}. Mean of the judge's number: {pole.plain:.3g} plain, {pole.reached:.3g} "
        f"steered; the bar is {pole.bar:.3g}. In words: “{pole.words}”"
    )
    said = []
    for example in pole.examples:
        said += [
            f"> **{_line(example.question)}**",
            f"> plain: {_line(example.plain)}",
            f"> {pole.name}: {_line(example.steered)}",
        ]
    parts = ["\n".join(findings), shown, means]
    if pole.readable:
        parts.append(_readable(pole.readable))
    parts += [
        "What was tried on the choosing questions, each as far as it came; a dose is counted in "
        "distances between the two sides of the pairs:",
        _tried(pole.tried),
        "The first test questions, nothing picked:",
        "\n>\n".join(said),
    ]
    return "\n\n".join(parts)


def _readable(found: Readable) -> str:
    return (
        "How surprising to the unsteered model that is asked for the language, in nats a token: "
        f"{_interval(found.steered)} the steered answers (n = {found.n}), {_interval(found.own)} "
        f"its own when it is asked in words, of which {_percent(found.own_degenerate)} repeat "
        f"themselves, {_interval(found.written)} what people wrote (n = {found.written_n}). Less "
        "than what people wrote is no praise: words that come again surprise little. The answers "
        "below show how it reads."
    )


def _tried(each_tried: Sequence[Tried]) -> str:
    lines = _rows(TRIED_HEAD)
    for each in each_tried:
        cells = (
            steering_in_words(each.steering),
            f"{each.dose:g}",
            str(each.n),
            _percent(each.progress),
            _percent(each.changed),
            _percent(each.degenerate),
            "" if each.facts_kept is None else _percent(each.facts_kept),
            "" if each.perplexity_ratio is None else f"x{each.perplexity_ratio:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _rows(head: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]


def _table(cards: Sequence[VectorCard]) -> str:
    lines = _rows(HEAD)
    for card in cards:
        lines += [f"| {' | '.join(_row(pole))} |" for pole in card.poles]
    return "\n".join(lines)


def _row(pole: PoleCard) -> list[str]:
    return [
        f"`smol:{pole.name}`",
        f"{_share(pole.steered.changed)} of {pole.steered.n}",
        f"{_share(pole.random.changed)} of {pole.random.n}",
        f"{_share(pole.shuffled.changed)} of {pole.shuffled.n}",
        f"{_share(pole.worded.changed)} of {pole.worded.n}",
        _effect(pole.steered),
        f"{_share(pole.facts.kept)} of {pole.facts.n}",
        f"x{_interval(pole.perplexity_ratio)}",
        f"{_percent(pole.steered.degenerate)} ({_percent(pole.plain_degenerate)})",
        "yes" if is_shown(pole) else "not shown",
    ]


def _judges(cards: Sequence[VectorCard]) -> str:
    lines = [
        "| profile | judge's number | margin | bar | plain | steered | where |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    lines += [
        f"| `smol:{pole.name}` | {card.measure} | {card.margin:g} | {pole.bar:.3g} | "
        f"{pole.plain:.3g} | {pole.reached:.3g} | {steering_in_words(pole.steering)} |"
        for card in cards
        for pole in card.poles
    ]
    notes = [f"- {note}" for card in cards for note in card.notes]
    return "\n".join(lines) + ("\n\n" + "\n".join(notes) if notes else "")


def _effect(against: Against) -> str:
    return f"{_interval(against.effect, '+')}"


def _interval(value: Interval, plus: str = "") -> str:
    return f"{value.estimate:{plus}.2f} [{value.low:.2f}, {value.high:.2f}]"


def _share(value: Interval) -> str:
    return f"{_percent(value.estimate)} [{100 * value.low:.0f}, {100 * value.high:.0f}]"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _line(text: str) -> str:
    """Return one line of Markdown that shows the text as it is."""
    flat = " ".join(text.split())
    for mark in "\\*_`<>[]|#":
        flat = flat.replace(mark, f"\\{mark}")
    return flat
