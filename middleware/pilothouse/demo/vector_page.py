"""Cards of vectors as pages: one beside each vector, and one table of all.

Everything on them is out of the cards, so that no figure is written by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pilothouse.demo.poles import terms_of
from pilothouse.demo.vector_card import Against, PoleCard, VectorCard, is_shown
from pilothouse.model.manifest import Interval

REMAKE: Final = "python -m pilothouse.demo.card"
HEAD: Final = (
    "profile", "strength", "changed", "random", "shuffled", "effect", "facts kept", "perplexity",
    "repeats", "holds",
)  # fmt: skip


def readme(card: VectorCard) -> str:
    """Return the page of one vector, in Markdown."""
    parts = [f"# {card.name}", _about(card), _table([card])]
    if card.notes:
        parts.append("\n".join(f"- {each}" for each in card.notes))
    for pole in card.poles:
        parts += [f"## {pole.name}", _pole(card, pole)]
    parts.append(f"Remade by `{REMAKE} --only {card.name}`.")
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
        "- *changed*: share of test questions whose answer moved by the judge's margin from "
        "the plain answer of the same question, with its 95% interval (Wilson).\n"
        "- *random*, *shuffled*: the same for directions that nobody chose, and for refits on "
        "states whose sides were dealt out anew, of equal lengths at the same layers.\n"
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
        for each in terms_of(card.name, pole.strength, card.where)
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


def _layers(layers: Sequence[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    return f"layers {layers[0]} to {layers[-1]}"


def _about(card: VectorCard) -> str:
    return (
        f"{card.name} against {card.negative}: {card.method} of {card.pairs} pairs "
        f"(`examples/smol/pairs/{card.name}.jsonl`), added at {_layers(card.layers)} of "
        f"{card.model_id} ({card.weights}), at {_where(card.where)}. "
        f"Judge: {card.measure}; an answer counts as changed when that moves "
        f"by at least {card.margin:g} towards the pole. {card.testing} open questions test that "
        f"were never fitted on, {card.choosing} others chose the strength; answers are greedy, of "
        f"at most {card.max_tokens} tokens. Seed {card.seed}."
    )


def _where(where: str) -> str:
    return {
        "output": "output tokens",
        "answer": "the prompt's last token and output tokens",
    }[where]


def _pole(card: VectorCard, pole: PoleCard) -> str:
    tried = ["| strength | changed | repeats | perplexity |", "|---:|---:|---:|---:|"]
    for each in pole.tried:
        ratio = "" if each.perplexity_ratio is None else f"x{each.perplexity_ratio:.2f}"
        tried.append(
            f"| {each.strength:g} | {_percent(each.changed)} | {_percent(each.degenerate)} | "
            f"{ratio} |"
        )
    findings = [f"- Not reached: {each}." for each in pole.findings] or ["- All aims are reached."]
    means = (
        f"Mean of the judge's number: {card.plain:.3g} plain, {pole.reached:.3g} steered. On the "
        f"choosing questions:"
    )
    said = ["The first test questions, nothing picked:"]
    for example in pole.examples:
        said += [
            f"> **{_line(example.question)}**",
            f"> plain: {_line(example.plain)}",
            f"> {pole.name}: {_line(example.steered)}",
        ]
    shown = f"```yaml\n{profile(card, pole)}\n```"
    return "\n\n".join(
        ["\n".join(findings), shown, means, "\n".join(tried), said[0], "\n>\n".join(said[1:])]
    )


def _table(cards: Sequence[VectorCard]) -> str:
    lines = [f"| {' | '.join(HEAD)} |", "|---|" + "---:|" * (len(HEAD) - 2) + "---|"]
    for card in cards:
        lines += [f"| {' | '.join(_row(card, pole))} |" for pole in card.poles]
    return "\n".join(lines)


def _row(card: VectorCard, pole: PoleCard) -> list[str]:
    return [
        f"`smol:{pole.name}`",
        f"{abs(pole.strength):g} x {len(card.layers)}",
        f"{_share(pole.steered.changed)} of {pole.steered.n}",
        _share(pole.random.changed),
        _share(pole.shuffled.changed),
        _effect(pole.steered),
        f"{_share(pole.facts.kept)} of {pole.facts.n}",
        f"x{_interval(pole.perplexity_ratio)}",
        f"{_percent(pole.steered.degenerate)} ({_percent(card.plain_degenerate)})",
        "yes" if is_shown(pole) else "not shown",
    ]


def _judges(cards: Sequence[VectorCard]) -> str:
    lines = ["| judge | its number | changed at | plain answers |", "|---|---|---:|---:|"]
    for card in {each.judge: each for each in cards}.values():
        lines.append(f"| {card.judge} | {card.measure} | {card.margin:g} | {card.plain:.3g} |")
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
    """One line of Markdown that shows the text as it is."""
    flat = " ".join(text.split())
    for mark in "\\*_`<>[]|#":
        flat = flat.replace(mark, f"\\{mark}")
    return flat
