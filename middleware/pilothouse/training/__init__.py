"""Vectors out of contrastive pairs (`fit_vector`) and probes out of labelled texts (`fit_probe`).

The engine that measures is the one that serves; it is imported when a fit begins, so that pairs,
methods and reports can be read without it.
"""

from __future__ import annotations

from pilothouse.training.fit import FittedVector, fit_vector
from pilothouse.training.pair import Pair, load_pairs
from pilothouse.training.probe_eval import ProbeEval, eval_probe
from pilothouse.training.probe_fit import FittedProbe, fit_probe
from pilothouse.training.report import FitReport

__all__ = [
    "FitReport",
    "FittedProbe",
    "FittedVector",
    "Pair",
    "ProbeEval",
    "eval_probe",
    "fit_probe",
    "fit_vector",
    "load_pairs",
]
