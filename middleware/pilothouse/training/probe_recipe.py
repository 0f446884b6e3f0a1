"""The recipe of a probe that is fitted to a file: all that decides what comes out."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from pilothouse.artifacts.manifest import Closed, Layer, OpenProbability
from pilothouse.config import Name
from pilothouse.errors import ConfigError
from pilothouse.probes.report import Form
from pilothouse.training.probe_data import Reading

ReadoutKind = Literal["last", "mean"]
"""`last`: where the assistant's turn opens, or an answer's last token. `mean`: over all tokens."""

USUAL_FPRS = (0.1, 0.05, 0.01, 0.001)
RIDGE_CS = (1e-4, 1e-3, 1e-2, 1e-1)
SHARES = (0.6, 0.2, 0.2)
MAX_TOKENS = 2048
TEST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.\-]{0,63}")
DATA = "data"
"""What the fitted file is called among the files of a recipe."""


class ProbeRecipe(Closed):
    """Everything. Equal recipes on equal files and models give equal probes.

    Paths in a file are relative to it. `sha256` has what the files were when it was fitted; files
    that differ since are told and used.
    """

    name: Name
    data: Path
    model: str = Field(min_length=1)
    model_id: str = Field(min_length=1, max_length=256)
    columns: dict[str, str] = Field(default_factory=dict)
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    tests: dict[str, Path] = Field(default_factory=dict)
    layers: tuple[Layer, ...] | None = None
    """None for about ten of the model's, from an early one to the last but one."""
    readouts: tuple[ReadoutKind, ...] | None = None
    """None for `last` of prompts, and for both of answers."""
    fit_on: Form = "as written"
    target_fprs: tuple[OpenProbability, ...] | None = None
    """None for `USUAL_FPRS`, as far as the data support them; one that is given must be."""
    ridge_cs: tuple[float, ...] = Field(default=RIDGE_CS, min_length=1)
    shares: tuple[OpenProbability, OpenProbability, OpenProbability] = SHARES
    """Of rows: fitted on, calibrated on, tested on."""
    max_tokens: int = Field(default=MAX_TOKENS, ge=1)
    """Longer texts are left out and counted."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """Arguments of vLLM's `LLM`."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)
    sha256: dict[str, str] = Field(default_factory=dict)

    @field_validator("layers", "readouts", "target_fprs")
    @classmethod
    def _something_each_once(cls, value: tuple[object, ...] | None) -> tuple[object, ...] | None:
        if value is not None and (not value or len(set(value)) < len(value)):
            raise ValueError(f"got {list(value)}, want at least one, each once")
        return value

    @field_validator("tests")
    @classmethod
    def _tests_have_names(cls, value: dict[str, Path]) -> dict[str, Path]:
        wrong = [each for each in value if each == DATA or not TEST_NAME.fullmatch(each)]
        if wrong:
            raise ValueError(
                f"got the name {wrong[0]!r:.80}, want letters, digits, spaces and . _ - and not "
                f"{DATA!r}"
            )
        return value

    @model_validator(mode="after")
    def _numbers_fit(self) -> ProbeRecipe:
        if abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError(f"shares: got {list(self.shares)}, want three that add up to 1")
        if not all(math.isfinite(each) and each > 0 for each in self.ridge_cs):
            raise ValueError(f"ridge_cs: got {list(self.ridge_cs)}, want positive numbers")
        return self

    @property
    def reading(self) -> Reading:
        """How its files are read."""
        return Reading(tuple(self.columns.items()), self.positive, self.negative)

    def to_file(self, folder: Path) -> str:
        """The recipe as JSON for a file in `folder`, its paths relative to that."""
        found = self.model_dump(mode="json")
        found["data"] = relative(self.data, folder)
        found["tests"] = {name: relative(path, folder) for name, path in self.tests.items()}
        if Path(self.model).is_dir():
            found["model"] = relative(Path(self.model), folder)
        return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def make_recipe(**given: Any) -> ProbeRecipe:
    """A recipe of its fields.

    Raises:
        ConfigError: names each that is wrong.
    """
    try:
        return ProbeRecipe.model_validate(given)
    except ValidationError as error:
        raise ConfigError("\n".join(_told(error))) from error


def recipe_fields(path: Path) -> dict[str, Any]:
    """The fields that a recipe file says, its paths resolved; none need be there.

    Raises:
        ConfigError: unreadable, no JSON object, or an unknown field.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(where=path, got=error.strerror, want="a recipe in JSON") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(where=path, got=f"no JSON: {error}", want="a recipe in JSON") from error
    unknown = (
        sorted(set(found) - set(ProbeRecipe.model_fields)) if isinstance(found, dict) else [""]
    )
    if not isinstance(found, dict) or unknown:
        raise ConfigError(
            where=path,
            got=f"an unknown field {unknown[0]!r}" if unknown[0] else type(found).__name__,
            want=f"an object of {', '.join(ProbeRecipe.model_fields)}",
        )
    folder = path.resolve().parent
    if isinstance(found.get("data"), str):
        found["data"] = folder / found["data"]
    if isinstance(found.get("tests"), dict):
        found["tests"] = {
            name: folder / each if isinstance(each, str) else each
            for name, each in found["tests"].items()
        }
    if isinstance(found.get("model"), str) and (folder / found["model"]).is_dir():
        found["model"] = str((folder / found["model"]).resolve())
    return found


def relative(path: Path, folder: Path) -> str:
    """A path as it is written in a file of `folder`."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _told(error: ValidationError) -> list[str]:
    return [
        ": ".join(
            [
                *([".".join(map(str, each["loc"]))] if each["loc"] else []),
                each["msg"].removeprefix("Value error, "),
            ]
        )
        for each in error.errors(include_url=False)
    ]
