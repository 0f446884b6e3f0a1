"""Oracle of sparse autoencoders: one token, one feature at a time, from the papers' formulas.

Written apart from `pilothouse.artifacts.saes` and `pilothouse.edits`: no rows, gates or folding.
ReLU (Bricken et al. 2023), Gated and JumpReLU (Rajamanoharan et al. 2024), TopK (Gao et al. 2024),
top-AFA (Lee et al. 2025), matching pursuit (Mallat and Zhang 1993), PolySAE (Koromilas et al.
2026). Shapes: D width, M features; W_enc [D, M], W_dec [M, D].
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
    is_signed: bool = False
    tolerance: float = 0.0
    ends_on_repeat: bool = False
    poly: dict[str, Vec] | None = None
    """U1, U2, U3 [M, rank], C1, C2, C3 [D, rank], lambda2, lambda3; W_dec is then U1 C1'."""

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
        inside, _ = self.normalised(h)
        x = inside - self.b_dec if self.subtracts_b_dec else inside
        if self.form == "pursuit":
            return self._pursued(x)
        z = np.array([float(x @ self.W_enc[:, f]) for f in range(self.W_enc.shape[1])])
        lengths = np.array([math.sqrt(float(d @ d)) for d in self.W_dec])
        out = np.zeros(len(z))
        for f in range(len(z)):
            out[f] = self._one(z[f], f, lengths[f])
        if self.form == "top_afa":
            return self._matched(out, lengths, inside)
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

    def _matched(self, z: Vec, lengths: Vec, inside: Vec) -> Vec:
        on = np.array([max(0.0, each) for each in z])
        ranked = sorted(range(len(on)), key=lambda f: (-on[f] * lengths[f], f))
        target = math.sqrt(sum((i - b) ** 2 for i, b in zip(inside, self.b_dec, strict=True)))
        best, best_gap, energy = 1, math.inf, 0.0
        for count, f in enumerate(ranked, 1):
            energy += (on[f] * lengths[f]) ** 2
            gap = abs(math.sqrt(energy) - target)
            if gap < best_gap:
                best, best_gap = count, gap
        out = np.zeros(len(on))
        for f in ranked[:best]:
            out[f] = on[f]
        return out

    def _pursued(self, x: Vec) -> Vec:
        left, out = x.copy(), np.zeros(len(self.W_dec))
        for _ in range(self.k):
            along = [float(left @ d) for d in self.W_dec]
            sizes = [abs(each) for each in along] if self.is_signed else along
            f = sizes.index(max(sizes))
            step = along[f] if self.is_signed or along[f] > 0 else 0.0
            brings_another = step != 0.0 and out[f] == 0.0
            out[f] += step
            left = left - step * self.W_dec[f]
            if self.ends_on_repeat and not brings_another:
                break
            if math.sqrt(float(left @ left)) < self.tolerance:
                break
        return out

    def _joint(self, codes: Vec) -> Vec:
        if self.poly is None:
            return np.zeros(len(self.b_dec))
        p = self.poly
        first, second, third = codes @ p["U1"], codes @ p["U2"], codes @ p["U3"]
        out = np.zeros(len(self.b_dec))
        for r in range(p["C2"].shape[1]):
            out = out + float(p["lambda2"]) * first[r] * second[r] * p["C2"][:, r]
        for r in range(p["C3"].shape[1]):
            out = out + float(p["lambda3"]) * first[r] * second[r] * third[r] * p["C3"][:, r]
        return out

    def reconstruction(self, h: Vec, codes: Vec) -> Vec:
        _, back = self.normalised(h)
        out = self.b_dec + self._joint(codes)
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
        "set": lambda: value,
        "scale": lambda: value * code,
        "ablate": lambda: 0.0,
        "add": lambda: code + value,
        "floor": lambda: max(code, value),
        "cap": lambda: min(code, value),
        "steer": lambda: max(0.0, code + value),
    }
    return rules[rule]()
