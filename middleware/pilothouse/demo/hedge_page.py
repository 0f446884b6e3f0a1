"""Writes the closed loop's card as a page."""

from __future__ import annotations

from typing import Final

from pilothouse.artifacts.manifest import Interval
from pilothouse.demo.hedge_figures import RIGHT_LOST, Declined, HedgeCard, Share

REMAKE: Final = "python -m pilothouse.demo.hedge"


def page(card: HedgeCard) -> str:
    """Return the page in Markdown. All intervals are 95%."""
    return "\n\n".join((_about(card), _loop(card), _doubts(card), _ranks(card))) + "\n"


def _about(card: HedgeCard) -> str:
    verdict = (
        "The probe takes more of the wrong answers than of the right ones, the whole interval "
        "above 0."
        if card.carries
        else "**The probe does not carry it**: what it takes of wrong answers is not shown to be "
        "more than what it takes of right ones. The policy stays in shadow."
    )
    return (
        f"# Declining answers in doubt: {card.policy}\n\n"
        f"`{card.model_id}` (Q4_1 weights, dequantised, float32) answers {card.testing} questions "
        f"of NQ-open greedily, {card.max_tokens} tokens at most, that neither the probe "
        f"`{card.probe}` (`{card.probe_digest[:12]}`) nor its threshold was made with. An answer "
        "is right where an accepted answer stands in it as words of its own, and confident where "
        "it has no more hedges than boosters. An answer in doubt where it ends is replaced by one "
        f"that says so. The threshold, {card.threshold:g}, is the smallest that declines at most "
        f"{RIGHT_LOST:.0%} of the {card.right_choosing} right answers to {card.choosing} other "
        f"questions. {verdict}\n\nRemade by `{REMAKE}` with seed {card.seed}."
    )


def _loop(card: HedgeCard) -> str:
    loop = card.loop
    rows = [
        ["wrong and confident", _share(loop.wrong_before), _share(loop.wrong_after)],
        ["right", _share(loop.right_before), _share(loop.right_after)],
    ]
    head = ["answers of the served model", "without the policy", "with it enforced"]
    return f"## The closed loop\n\n{_table(head, rows)}"


def _doubts(card: HedgeCard) -> str:
    rows = [_declined("the questions that chose it", card.chosen)]
    rows += [_declined("the test", each) for each in card.declined]
    note = (
        "The others decline as many answers of the test as the probe does. `apart` is the share "
        "of wrong confident answers less that of right ones; declining by chance has 0."
    )
    if card.unscored:
        note += f" {card.unscored} answers had no token to read, and pass."
    head = ["on", "scorer", "wrong and confident declined", "right declined", "apart"]
    return f"## What is declined\n\n{note}\n\n{_table(head, rows)}"


def _declined(on: str, each: Declined) -> list[str]:
    return [on, each.scorer, _share(each.wrong), _share(each.right), _interval(each.apart, "+")]


def _ranks(card: HedgeCard) -> str:
    rows = [
        [name, _interval(each), _interval(card.leads[name], "+") if name in card.leads else ""]
        for name, each in card.ranks.items()
    ]
    head = ["scorer", "AUROC, wrong against right", "probe ahead by"]
    return f"## Who tells wrong from right\n\n{_table(head, rows)}"


def _share(each: Share) -> str:
    shown = each.share
    return (
        f"{each.count} of {each.n}, {100 * shown.estimate:.1f}% "
        f"[{100 * shown.low:.1f}, {100 * shown.high:.1f}]"
    )


def _interval(each: Interval, plus: str = "") -> str:
    return f"{each.estimate:{plus}.3f} [{each.low:{plus}.3f}, {each.high:{plus}.3f}]"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))
