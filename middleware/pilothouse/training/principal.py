"""The principal direction of the pairs' differences (LAT, linear artificial tomography).

Differences of pairs in random order have mean zero, so that their principal component is the
leading eigenvector of the second moment; that is computed directly, without drawing an options.
Source: Zou et al. 2023, Representation Engineering.

Shape suffixes: N pairs, D width of the site.
"""

from __future__ import annotations

import numpy as np

from pilothouse.training.method import Fitted, along, register
from pilothouse.training.sample import Sample


def principal_difference(sample: Sample) -> Fitted:
    """The direction with the sign that positives have along it, at the length of the mean gap.

    Raises:
        ConfigError: positives and negatives do not differ along it.
    """
    differences_ND = sample.positive_NF - sample.negative_NF
    _, singular_N, rows_ND = np.linalg.svd(differences_ND, full_matrices=False)
    power = float((singular_N**2).sum())
    share = float(singular_N[0] ** 2) / power if power else 0.0
    return Fitted(along(rows_ND[0], sample), {"explained_share": share})


register("pca", principal_difference)
