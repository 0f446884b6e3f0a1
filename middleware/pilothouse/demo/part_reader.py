"""Reads parts of text sets as data sets of activations, each part once in each form.

Tested texts that nearly say what a fitted one says are left out: sets borrow from each other.

Shapes: N texts of a part, L layers, D width of the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pilothouse.demo.activations import MAX_TOKENS, Activations
from pilothouse.demo.probe_plans import Part, Parts, Plan
from pilothouse.demo.texts.sets import SETS
from pilothouse.demo.texts.text_set import Text, alike, in_form
from pilothouse.probes.baseline import BEHIND
from pilothouse.probes.dataset import Dataset, Example, dataset_of
from pilothouse.probes.overlap import near_texts
from pilothouse.probes.report import Form
from pilothouse.types import FloatArray


@dataclass
class PartReader:
    """Reads parts of sets by one model."""

    activations: Activations
    tell: Callable[[str], None]
    too_long: dict[Part, int] = field(default_factory=dict)
    _sets: dict[str, list[Text]] = field(default_factory=dict)
    _parts: dict[Part, list[Text]] = field(default_factory=dict)
    _hidden: dict[tuple[Part, Form], FloatArray] = field(default_factory=dict)

    def texts(self, part: Part) -> list[Text]:
        """Return the texts of a part, each once, without those that are too long."""
        if part not in self._parts:
            if part.name not in self._sets:
                self._sets[part.name] = SETS[part.name].texts(self.tell)
            inside = [
                each
                for each in dict.fromkeys(self._sets[part.name])
                if part.low <= each.share < part.high
                and part.label in (None, each.label)
                and (part.kind is None or part.kind in each.kind.split())
            ]
            fitting = [
                each
                for each in sorted(inside, key=lambda text: text.share)
                if len(self.activations.prompt(each, "as written").ids) <= MAX_TOKENS
            ]
            self.too_long[part] = len(inside) - len(fitting)
            self._parts[part] = fitting[: part.most]
        return self._parts[part]

    def tested(self, plan: Plan, parts: Parts) -> tuple[dict[Part, list[Text]], int]:
        """Return the texts of parts that no fitted text comes near, and how many were left out."""
        fitted = [
            text for each in plan.fitted.values() for part in each for text in self.texts(part)
        ]
        kept = {part: without_overlap(self.texts(part), fitted) for part in parts}
        return kept, sum(len(self.texts(part)) - len(kept[part]) for part in parts)

    def dataset(
        self,
        plan: Plan,
        texts: dict[Part, list[Text]],
        form: Form,
        sources: dict[Part, str],
        *,
        asked: int = 0,
    ) -> Dataset:
        """Return texts in a form, each of the family that `sources` names.

        Args:
            plan: the probe's plan.
            texts: those of each part.
            form: in which they are read.
            sources: the family of each part.
            asked: so many of each part and label get their log-probability.
        """
        examples: list[Example] = []
        for part, kept in texts.items():
            # What is asked of one kind is read with the whole part, so that it is read once.
            whole = part._replace(kind=None)
            hidden_NLD = self._hidden_NLD(whole, form)
            means_N = self._means_N(whole, form, asked)
            rows = {text: row for row, text in enumerate(self.texts(whole))}
            examples += [
                Example(
                    hidden_TLD=hidden_NLD[rows[text]][None],
                    prompt_tokens=int(plan.scope == "prompt"),
                    label=text.label,
                    group=f"{part.name}: {text.group}",
                    family=sources[part],
                    text=_read_by_baselines(text, form),
                    mean_log_probability=float(means_N[rows[text]]),
                )
                for text in kept
            ]
        return dataset_of(examples, self.activations.layers)

    def written(self, texts: dict[Part, list[Text]]) -> NDArray[Any]:
        """Return what baselines read of the texts as they are written, ordered as `dataset`."""
        kept = [_read_by_baselines(each, "as written") for part in texts for each in texts[part]]
        found = np.empty(len(kept), dtype=object)
        found[:] = kept
        return found

    def _hidden_NLD(self, part: Part, form: Form) -> FloatArray:
        if (part, form) not in self._hidden:
            texts = self.texts(part)
            self.tell(f"{part.name}, {form}: {len(texts)} texts")
            prompts = [self.activations.prompt(each, form) for each in texts]
            self._hidden[part, form] = self.activations.hidden(_name(part, form), prompts)
        return self._hidden[part, form]

    def _means_N(self, part: Part, form: Form, asked: int) -> NDArray[np.float64]:
        """Return log-probabilities; NaN where none was asked for."""
        texts = self.texts(part)
        means_N = np.full(len(texts), np.nan)
        chosen = _first_of_each_label(texts, asked)
        if chosen:
            prompts = [self.activations.prompt(texts[each], form) for each in chosen]
            means_N[chosen] = self.activations.log_probabilities(_name(part, form), prompts)
        return means_N


def _name(part: Part, form: Form) -> str:
    return f"{part.name}-{form.replace(' ', '-')}"


def _read_by_baselines(text: Text, form: Form) -> str:
    said = in_form(text.text, form)
    return said if text.question is None else f"{in_form(text.question, form)}{BEHIND}{said}"


def _first_of_each_label(texts: Sequence[Text], count: int) -> list[int]:
    found: list[int] = []
    for label in (True, False):
        found += [row for row, each in enumerate(texts) if each.label is label][:count]
    return sorted(found)


def without_overlap(tested: Sequence[Text], fitted: Sequence[Text]) -> list[Text]:
    """Return the tested texts that no fitted text comes near."""
    near = near_texts([_said(each) for each in tested], [_said(each) for each in fitted])
    return [each for each, is_near in zip(tested, near, strict=True) if not is_near]


def _said(text: Text) -> str:
    return alike(f"{text.question or ''} {text.text}")
