"""The recipe of a probe: all that decides how it is fitted, beside the data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pilothouse.artifacts.manifest import Closed, Layer, OpenProbability, ReadoutAggregate
from pilothouse.config import Name
from pilothouse.probes.fit import Training
from pilothouse.types import Scope

Objective = Literal["auroc", "partial_auroc"]


class ReadoutRecipe(Closed):
    """A readout to calibrate; those in the recipe's scope compete to be the default."""

    scope: Scope
    aggregate: ReadoutAggregate


class Recipe(Closed):
    """What is swept and how it is chosen.

    `layer_sets` are rows to try, each over one or more layers together. `partial_auroc` is the
    area up to a false positive rate of 5%. The chosen C is the smallest whose objective is within
    one standard error of the best. `left_out_families` names families to leave out in turn; none
    means every family of the test data.
    """

    name: Name
    scope: Scope
    layer_sets: tuple[tuple[Layer, ...], ...] = Field(min_length=1)
    readouts: dict[Name, ReadoutRecipe] = Field(min_length=1)
    trainings: tuple[Training, ...] = ("mean", "last", "max")
    ridge_cs: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    objective: Objective = "auroc"
    target_fprs: tuple[OpenProbability, ...] = (0.05, 0.01, 0.001)
    length_buckets: tuple[int, ...] = ()
    validation_share: OpenProbability = 0.25
    left_out_families: tuple[str, ...] | None = None
    shuffle_labels: bool = False
    """Fit the control: labels of the fitting and calibration data are dealt out anew."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _a_readout_is_in_scope(self) -> Recipe:
        if not self.competing:
            scopes = {name: each.scope for name, each in self.readouts.items()}
            raise ValueError(f"readouts: got scopes {scopes}, want at least one {self.scope!r}")
        if not self.trainings or not self.ridge_cs or min(self.ridge_cs) <= 0:
            raise ValueError("trainings, ridge_cs: want at least one each, every C above 0")
        return self

    @property
    def competing(self) -> dict[str, ReadoutAggregate]:
        """The readouts in the recipe's scope."""
        return {
            name: each.aggregate for name, each in self.readouts.items() if each.scope == self.scope
        }
