"""SAE features that are stronger in positives, as one vector: the sum of their decoder rows.

A feature is left out that is on in random tokens too: it stands for text as such, and not for what
the pairs differ in. Source of that filter: LangFIR.

Shape suffixes: M features, D width of the site.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.errors import ConfigError
from pilothouse.training.method import Fitted
from pilothouse.training.sample import Floats, Sample

MAX_RANDOM_RATE = 0.1
"""Share of random tokens in which a feature may be on and still be taken."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSelection:
    """A method on samples of codes: the `top` features by their mean gap.

    `random_rate_M` is the share of random tokens in which each feature is on.
    """

    sae: Sae
    random_rate_M: Floats
    top: int

    def __call__(self, sample: Sample) -> Fitted:
        """The sum of the chosen features' decoder rows, in the units of the stream.

        Raises:
            ConfigError: no feature is left.
        """
        if self.sae.polynomial is not None:
            raise ConfigError(
                f"sae-features: {self.sae.name} is a PolySAE, whose features write no row of their "
                "own; take another SAE, or another method"
            )
        gap_M = (sample.positive_NF - sample.negative_NF).mean(axis=0)
        open_M = np.where(self.random_rate_M <= MAX_RANDOM_RATE, gap_M, -np.inf)
        chosen = [int(each) for each in np.argsort(-open_M, kind="stable")[: self.top]]
        chosen = [each for each in chosen if open_M[each] > 0]
        if not chosen:
            raise ConfigError(
                f"sae-features: no feature of {self.sae.name} is stronger in positives and rare in "
                "random tokens; take another SAE or layer, or another method"
            )
        direction_D = np.sum([self._row(each) for each in chosen], axis=0)
        told = [
            {
                "feature": each,
                "label": self.sae.labels.get(each),
                "gap": float(gap_M[each]),
                "random_rate": float(self.random_rate_M[each]),
            }
            for each in chosen
        ]
        return Fitted(direction_D / self.sae.input_scale, {"features": told})

    def _row(self, feature: int) -> Floats:
        row_D: Floats = np.asarray(self.sae.decoder_MD.row(feature), np.float64)
        return row_D / np.linalg.norm(row_D) if self.sae.decoder_norms == "scale" else row_D
