"""What a probe's fit needs before an engine starts: rows, divided, as the model's tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pilothouse.errors import ConfigError
from pilothouse.probes.report import Form
from pilothouse.training.pair import SHOWN_PROBLEMS
from pilothouse.training.probe_data import LabelledFile, LabelledText
from pilothouse.training.probe_recipe import ProbeRecipe, ReadoutKind
from pilothouse.training.probe_texts import Prompt, TextRenderer

FORMS: tuple[Form, ...] = ("as written", "alike")
MOST_LAYERS = 10


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one use, with their tokens in each form."""

    rows: tuple[LabelledText, ...]
    prompts: Mapping[Form, tuple[Prompt, ...]]

    def select(self, keep: Sequence[bool] | np.ndarray[Any, np.dtype[np.bool_]]) -> Part:
        """The rows under a mask."""
        chosen = np.flatnonzero(np.asarray(keep, bool)).tolist()
        return Part(
            tuple(self.rows[each] for each in chosen),
            {form: tuple(found[n] for n in chosen) for form, found in self.prompts.items()},
        )

    @property
    def labels(self) -> list[bool]:
        """Of each row."""
        return [each.label for each in self.rows]

    def said(self, form: Form) -> list[str]:
        """What text baselines read."""
        return [each.said(form) for each in self.rows]


@dataclass(frozen=True, slots=True)
class TestFile:
    """A file that was named as a test: `overlapping` rows nearly say what a fitted one says."""

    file: LabelledFile
    part: Part
    overlapping: int
    too_long: int


@dataclass(frozen=True, slots=True)
class ProbeMaterial:
    """All that a fit needs before an engine starts.

    Attributes:
        families: of each fitted row: what is left out in turn, to choose layer and C by.
        by_source: whether families are sources.
        sources: those with enough of both labels to be left out, and measured.
    """

    recipe: ProbeRecipe
    settings: Mapping[str, Any]
    layers: tuple[int, ...]
    readouts: tuple[ReadoutKind, ...]
    file: LabelledFile
    too_long: int
    fit: Part
    calibration: Part
    test: Part
    families: tuple[str, ...]
    by_source: bool
    sources: tuple[str, ...]
    tests: Mapping[str, TestFile]
    is_chat: bool


def text_renderer(
    model: str, settings: Mapping[str, Any], template_kwargs: Mapping[str, Any]
) -> TextRenderer:
    """The model's tokenizer and template.

    Raises:
        ConfigError: they cannot be read.
    """
    from pilothouse.engine.vllm.prompts import PromptRenderer  # vLLM takes seconds to import

    return TextRenderer(PromptRenderer(model, settings, template_kwargs))


def rendered(renderer: TextRenderer, file: LabelledFile, limit: int) -> tuple[Part, int]:
    """The rows of a file as tokens in both forms, and how many were longer than the limit.

    Raises:
        ConfigError: a line for each row that the template refuses, or no row is left.
    """
    kept: list[LabelledText] = []
    prompts: dict[Form, list[Prompt]] = {form: [] for form in FORMS}
    problems = []
    too_long = 0
    for row in file.rows:
        try:
            found = {form: renderer.prompt(row.in_form(form)) for form in FORMS}
        except ConfigError as error:
            problems.append(f"{file.path}: line {row.line}: {error}")
            continue
        if max(len(each.ids) for each in found.values()) > limit:
            too_long += 1
            continue
        kept.append(row)
        for form in FORMS:
            prompts[form].append(found[form])
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        tail = [f"{file.path}: and {more} more"] if more > 0 else []
        raise ConfigError("\n".join([*problems[:SHOWN_PROBLEMS], *tail]))
    if not kept:
        raise ConfigError(
            where=file.path,
            got=f"{too_long} texts of more than {limit} tokens",
            want="shorter ones",
            fix="raise --max-tokens, and --max-model-len behind --",
        )
    return Part(tuple(kept), {form: tuple(found) for form, found in prompts.items()}), too_long


def usual_layers(num_layers: int) -> tuple[int, ...]:
    """About ten layers: the first see little but words, the last turns to the next token."""
    if num_layers < 5:
        return tuple(range(max(1, num_layers - 1)))
    first, last = round(0.15 * num_layers), num_layers - 2
    return tuple(sorted({round(each) for each in np.linspace(first, last, MOST_LAYERS).tolist()}))
