"""Oracle of sparse autoencoders: one token, one feature at a time, from the papers' formulas.

Written apart from `pilothouse.model.sae` and `pilothouse.edit`: no rows, gates or folding. ReLU
(Bricken et al. 2023), Gated and JumpReLU (Rajamanoharan et al. 2024), TopK (Gao et al. 2024).
Shapes: D width, M features; W_enc [D, M], W_dec [M, D].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vec = NDArray[np.float64]


@dataclass
class Book:
    """An SAE as a textbook has it."""

    W_enc: Vec
    W_dec: Vec
    b_dec: Vec
    b_enc: Vec
    form: str = "relu"
    threshold: Vec | None = None
    b_mag: Vec | None = None
    r_mag: Vec | None = None
    k: int = 0
    subtracts_b_dec: bool = False
    scale: float = 1.0
    norm: str = "none"
    is_centred: bool = False
    norms: str = "ignored"

    def normalised(self, h: Vec) -> tuple[Vec, float]:
        """What the SAE sees of a token, and by what a change in it is multiplied on the way out."""
        if self.is_centred:
            h = h - sum(h) / len(h)
        if self.norm == "layer_norm":
            x = h - sum(h) / len(h)
            std = math.sqrt(sum(each * each for each in x) / (len(x) - 1))
            return x / (std + 1e-5), std
        if self.norm == "constant_norm":
            factor = math.sqrt(len(h)) / math.sqrt(float(h @ h))
            return h * factor, 1.0 / factor
        return h * self.scale, 1.0 / self.scale

    def codes(self, h: Vec) -> Vec:
        x, _ = self.normalised(h)
        if self.subtracts_b_dec:
            x = x - self.b_dec
        z = np.array([float(x @ self.W_enc[:, f]) for f in range(self.W_enc.shape[1])])
        lengths = np.array([math.sqrt(float(d @ d)) for d in self.W_dec])
        out = np.zeros(len(z))
        for f in range(len(z)):
            out[f] = self._one(z[f], f, lengths[f])
        if self.form not in ("topk", "abstopk"):
            return out
        size = np.abs(out) if self.form == "abstopk" else out
        size = size * lengths if self.norms == "select" else size
        ranked = sorted(range(len(out)), key=lambda f: (-size[f], f))
        kept = set(ranked[: self.k])
        for f in range(len(out)):
            if f not in kept or (self.form == "topk" and out[f] < 0):
                out[f] = 0.0
        return out

    def _one(self, z: float, f: int, length: float) -> float:
        if self.form == "gated":
            assert self.r_mag is not None
            assert self.b_mag is not None
            whole = z * math.exp(self.r_mag[f]) + self.b_mag[f]
            return max(0.0, whole) if z + self.b_enc[f] > 0 else 0.0
        z = z + self.b_enc[f]
        if self.form == "relu":
            return max(0.0, z)
        if self.form == "jumprelu":
            assert self.threshold is not None
            chosen = z * length if self.norms == "select" else z
            return max(0.0, z) if chosen > self.threshold[f] else 0.0
        return z * length if self.norms == "scale" else z

    def reconstruction(self, h: Vec, codes: Vec) -> Vec:
        _, back = self.normalised(h)
        out = self.b_dec.copy()
        for f, code in enumerate(codes):
            length = math.sqrt(float(self.W_dec[f] @ self.W_dec[f]))
            out = out + code * self.W_dec[f] / (length if self.norms == "scale" else 1.0)
        mean = sum(h) / len(h) if self.is_centred or self.norm == "layer_norm" else 0.0
        return out * back + mean

    def edited(self, h: Vec, changes: dict[int, tuple[str, float, float | None]]) -> Vec:
        """h with features changed: the reconstruction of the new codes and the error of the old."""
        codes = self.codes(h)
        new = codes.copy()
        for f, (rule, value, above) in changes.items():
            if above is None or codes[f] > above:
                new[f] = changed(codes[f], rule, value)
        error = h - self.reconstruction(h, codes)
        return self.reconstruction(h, new) + error


def changed(code: float, rule: str, value: float) -> float:
    """One code after a rule."""
    rules = {
        "set": lambda: value, "scale": lambda: value * code, "ablate": lambda: 0.0,
        "add": lambda: code + value, "floor": lambda: max(code, value),
        "cap": lambda: min(code, value), "steer": lambda: max(0.0, code + value),
    }  # fmt: skip
    return rules[rule]()
