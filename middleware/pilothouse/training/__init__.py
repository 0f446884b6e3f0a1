"""Vectors out of contrastive pairs: `fit_vector` fits, searches, measures and returns one.

The engine that measures is the one that serves; it is imported when a fit begins, so that pairs,
methods and reports can be read without it.
"""

from __future__ import annotations

from pilothouse.training.fit import FittedVector, fit_vector
from pilothouse.training.pair import Pair, load_pairs
from pilothouse.training.report import FitReport

__all__ = ["FitReport", "FittedVector", "Pair", "fit_vector", "load_pairs"]
