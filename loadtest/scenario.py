"""What each case loads, what its requests ask for, and how the server's own counters prove it.

A case whose counters do not show the work it is meant to measure is an error, not a result.

Shape suffixes: L layers, D hidden size, M features of an SAE.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from pilothouse.artifacts.manifest import Readout, ReadoutAggregate
from pilothouse.artifacts.probe import build_probe, save_probe
from pilothouse.artifacts.transform import build_transform, save_transform
from pilothouse.artifacts.vector import build_vector, save_vector
from pilothouse.config import PilothouseConfig, load_config
from pilothouse.library import library_path

SERVED_NAME = "bench"
CREATED_BY = "loadtest"
RESIDUAL_NORM = 10.0
PROFILES = 32
PROBE_LAYER = 4
EDIT_LAYER = 4
RANK = 8
RANK_LAYERS = (1, 3, 5, 7)
FEATURES_PER_DIMENSION = 16
"""Of the SAE: as wide as the narrow ones that are published."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What every burst of a case is made of: requests at once, their lengths."""

    requests: int = 32
    output_tokens: int = 64
    prompt_words: int = 32


NARROW = Profile()
WIDE = Profile(requests=256, output_tokens=32, prompt_words=16)
"""Shorter, so that a pair takes well under a minute on two cores."""
SMOL, SMOL_OF_32 = Profile(8, 48, 16), Profile(32, 24, 16)
"""On the real model, which takes ten times as long for a token as the random one."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a burst did: requests answered, prompt and output tokens in all."""

    requests: int
    prompt_tokens: int
    output_tokens: int

    @property
    def fed_tokens(self) -> int:
        """Tokens that went through the model: the last of each answer never does."""
        return self.prompt_tokens + self.output_tokens - self.requests


Counters = Mapping[str, Mapping[str, float]]
"""Metric -> label value -> total; see `counters_of` in `server`."""
Proof = Callable[[Counters, Load], list[str]]


@dataclass(frozen=True, slots=True)
class Size:
    """What artefacts must fit."""

    model_id: str
    d_model: int
    num_layers: int


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table. `goal` is a ratio, None for a case that is there for information."""

    name: str
    goal: float | None
    what: str
    write: Callable[[Path, Size], Mapping[str, Any]] | None
    """Writes artefacts below a folder and returns what `pilothouse.yaml` says; None: no config."""
    proof: Proof
    profiles: int = 0
    burst: Profile = NARROW
    plain: bool = False
    """Both servers are plain: shows what the method itself makes of no difference."""
    names: Callable[[], tuple[str, ...]] | None = None
    """Of the profiles, where they are not numbered."""

    def config(self, folder: Path, size: Size) -> Path | None:
        """Write everything the server needs; the configuration file, or None without one."""
        if self.write is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        said = {"version": 1, "model_id": size.model_id, **self.write(folder, size)}
        path = folder / "pilothouse.yaml"
        path.write_text(yaml.safe_dump(said, sort_keys=False), encoding="utf-8")
        return path

    def models(self) -> tuple[str, ...]:
        """The model names that this case's requests take in turn."""
        if self.names is not None:
            return self.names()
        return tuple(_profile(index) for index in range(self.profiles)) or (SERVED_NAME,)


def _profile(index: int) -> str:
    return f"{SERVED_NAME}:p{index:02d}"


def _strength(index: int, count: int = PROFILES) -> float:
    """Distinct for every profile, and at most a tenth of the residual norm in all."""
    return 0.5 + index / (2 * count)


# what is loaded


def write_vectors(
    folder: Path, size: Size, count: int, layers: Sequence[int]
) -> dict[str, dict[str, str]]:
    """Random directions of length 1, as artefacts below a folder; what `vectors:` says."""
    refs = {}
    for index in range(count):
        rows_LD = np.random.default_rng(index).normal(size=(len(layers), size.d_model))
        rows_LD /= np.linalg.norm(rows_LD, axis=1, keepdims=True)
        name = f"v{index:02d}"
        vector = build_vector(
            name,
            model_id=size.model_id,
            layers=tuple(layers),
            directions_LD=rows_LD.astype(np.float32),
            residual_norms_L=np.full(len(layers), RESIDUAL_NORM, np.float32),
            created_by=CREATED_BY,
        )
        save_vector(vector, folder / "vectors" / name)
        refs[name] = {"path": f"vectors/{name}"}
    return refs


def write_maps(
    folder: Path, size: Size, count: int, layers: Sequence[int], rank: int
) -> dict[str, dict[str, str]]:
    """Random low-rank maps, as artefacts below a folder; what `vectors:` says."""
    refs = {}
    for index in range(count):
        draw = np.random.default_rng(2000 + index)
        shape = (len(layers), rank, size.d_model)
        rows = {key: draw.normal(size=shape).astype(np.float32) for key in ("read", "write")}
        name = f"v{index:02d}"
        made = build_transform(
            name,
            form="lowrank",
            model_id=size.model_id,
            layers=tuple(layers),
            arrays={key: 0.1 * each / np.float32(size.d_model) ** 0.5 for key, each in rows.items()}
            | {"bias": draw.normal(size=(len(layers), rank)).astype(np.float32)},
            residual_norms_L=np.full(len(layers), RESIDUAL_NORM, np.float32),
            created_by=CREATED_BY,
        )
        save_transform(made, folder / "vectors" / name)
        refs[name] = {"path": f"vectors/{name}"}
    return refs


def write_sae(folder: Path, size: Size, layer: int) -> dict[str, dict[str, Any]]:
    """A random JumpReLU SAE as SAELens writes them, below a folder; what `saes:` says."""
    place = folder / "saes" / "sae"
    place.mkdir(parents=True, exist_ok=True)
    features = FEATURES_PER_DIMENSION * size.d_model
    rows_MD = np.random.default_rng(3000).normal(size=(features, size.d_model)).astype(np.float32)
    rows_MD /= np.linalg.norm(rows_MD, axis=1, keepdims=True)
    tensors = {
        "W_enc": np.ascontiguousarray(rows_MD.T),
        "W_dec": rows_MD,
        "b_enc": np.zeros(features, np.float32),
        "b_dec": np.zeros(size.d_model, np.float32),
        "threshold": np.full(features, 0.1, np.float32),
    }
    save_file(tensors, place / "sae_weights.safetensors")
    said = {
        "architecture": "jumprelu",
        "d_in": size.d_model,
        "d_sae": features,
        "metadata": {"model_name": size.model_id, "hook_name": f"blocks.{layer}.hook_resid_post"},
    }
    (place / "cfg.json").write_text(json.dumps(said), encoding="utf-8")
    return {"sae": {"path": "saes/sae", "average_norm": RESIDUAL_NORM}}


def write_probes(
    folder: Path, size: Size, count: int, layers: Sequence[int]
) -> dict[str, dict[str, str]]:
    """Random probes, as artefacts below a folder; what `probes:` says.

    Their bias is low, so that no rule ever fires and every request runs its length.
    """
    readouts = {
        "prompt_max": _readout("prompt", ReadoutAggregate(kind="max")),
        "output_ema": _readout("output", ReadoutAggregate(kind="ema_max", half_life_tokens=4.0)),
    }
    refs = {}
    for index in range(count):
        row_LD = np.random.default_rng(1000 + index).normal(size=(1, size.d_model))
        name = f"probe{index}"
        probe = build_probe(
            name,
            model_id=size.model_id,
            layers=(layers[index % len(layers)],),
            weights_LD=(0.01 * row_LD / np.linalg.norm(row_LD)).astype(np.float32),
            bias=-6.0,
            token_slope=1.0,
            token_offset=0.0,
            readouts=readouts,
            default_readout="prompt_max",
            created_by=CREATED_BY,
        )
        save_probe(probe, folder / "probes" / name)
        refs[name] = {"path": f"probes/{name}"}
    return refs


def _readout(scope: Any, aggregate: ReadoutAggregate) -> Readout:
    return Readout(scope=scope, aggregate=aggregate, slope=1.0, offset=0.0, prior=0.5)


POLICY = """
apiVersion: pilothouse/v1
kind: Policy
metadata: {{name: bench, title: Load test, category: operations, severity: low,
           description: Reads every probe on every request and token.}}
spec:
  mode: enforce
  signals:
    {signals}
  rules:
    - {{id: prompt, phase: prompt, when: {prompt}, then: {{action: {action}}}}}
    - {{id: output, phase: output, when: {output}, then: {{action: {action}}}}}
"""


def write_policy(folder: Path, probes: Sequence[str], action: str) -> str:
    """An enforced policy with a prompt and an output rule over all probes; its path."""
    signals: list[str] = []
    conditions: dict[str, list[str]] = {"prompt": [], "output": []}
    for probe in probes:
        for phase, readout in (("prompt", "prompt_max"), ("output", "output_ema")):
            signals.append(f"{phase}_{probe}: {{probe: {probe}, readout: {readout}}}")
            conditions[phase].append(f"{phase}_{probe} >= 0.99")
    text = POLICY.format(
        signals=("\n" + " " * 4).join(signals),
        prompt=" or ".join(conditions["prompt"]),
        output=" or ".join(conditions["output"]),
        action=action,
    )
    path = folder / "policies" / "bench" / "policy.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.lstrip(), encoding="utf-8")
    return "policies/bench"


def _profiles(
    terms: Callable[[int], list[dict[str, Any]]], count: int = PROFILES
) -> dict[str, Any]:
    return {_profile(index): {"steer": terms(index)} for index in range(count)}


def _term(vector: int, scale: float) -> dict[str, Any]:
    return {"vector": f"v{vector:02d}", "scale": scale, "unit": "raw", "on": "all"}


def _idle(folder: Path, size: Size) -> dict[str, Any]:
    return {
        "vectors": write_vectors(folder, size, 1, [EDIT_LAYER]),
        "saes": write_sae(folder, size, EDIT_LAYER),
        "probes": write_probes(folder, size, 3, [2, 4, 6]),
    }


def _probes8(action: str) -> Callable[[Path, Size], dict[str, Any]]:
    def write(folder: Path, size: Size) -> dict[str, Any]:
        probes = write_probes(folder, size, 8, [PROBE_LAYER])
        return {"probes": probes, "policies": [write_policy(folder, list(probes), action)]}

    return write


def _one_direction(folder: Path, size: Size) -> dict[str, Any]:
    return {
        "vectors": write_vectors(folder, size, 1, [EDIT_LAYER]),
        "profiles": _profiles(lambda index: [_term(0, _strength(index))]),
    }


def _every_layer(folder: Path, size: Size) -> dict[str, Any]:
    return {
        "vectors": write_vectors(folder, size, PROFILES, range(size.num_layers)),
        "profiles": _profiles(lambda index: [_term(index, _strength(index))]),
    }


def _norm(folder: Path, size: Size) -> dict[str, Any]:
    def terms(index: int) -> list[dict[str, Any]]:
        return [_term(0, _strength(index)) | {"restore_norm": True}]

    return {
        "vectors": write_vectors(folder, size, 1, [EDIT_LAYER]),
        "profiles": _profiles(terms),
    }


def _features(folder: Path, size: Size) -> dict[str, Any]:
    stride = FEATURES_PER_DIMENSION * size.d_model // PROFILES

    def terms(index: int) -> list[dict[str, Any]]:
        edit = {"sae": "sae", "feature": stride * index, "value": _strength(index)}
        return [edit | {"on": "all"}]

    return {"saes": write_sae(folder, size, EDIT_LAYER), "profiles": _profiles(terms)}


def _programs(count: int) -> Callable[[Path, Size], dict[str, Any]]:
    def write(folder: Path, size: Size) -> dict[str, Any]:
        return {
            "vectors": write_vectors(folder, size, count, [EDIT_LAYER]),
            "profiles": _profiles(lambda index: [_term(index, _strength(index, count))], count),
            "limits": {"max_programs": max(64, count)},
        }

    return write


def _maps(count: int) -> Callable[[Path, Size], dict[str, Any]]:
    def write(folder: Path, size: Size) -> dict[str, Any]:
        return {
            "vectors": write_maps(folder, size, count, RANK_LAYERS, RANK),
            "profiles": _profiles(lambda index: [_term(index, _strength(index, count))], count),
            "limits": {"max_programs": count, "max_rank": RANK},
        }

    return write


def _demo(_folder: Path, _size: Size) -> dict[str, Any]:
    """What the demo loads with the real model, wherever the library lies."""
    said = _demo_config().model_dump(mode="json", exclude_unset=True)
    return {key: value for key, value in said.items() if key not in ("version", "model_id")}


def _demo_config() -> PilothouseConfig:
    return load_config(library_path("probes/smol") / "pilothouse.yaml")  # its paths are absolute


def demo_profiles() -> tuple[str, ...]:
    """The profiles of the real model that the demo steers by."""
    return tuple(name for name, each in _demo_config().profiles.items() if each.steer)


# what the counters must show


def _counted(counters: Counters, load: Load) -> list[str]:
    found = sum(counters.get("pilothouse_requests_total", {}).values())
    return _wrong("pilothouse_requests_total", found, load.requests)


def _unused(counters: Counters, load: Load) -> list[str]:
    problems = _counted(counters, load)
    for metric in ("pilothouse_probe_tokens_total", "pilothouse_steered_tokens_total"):
        problems += _wrong(metric, sum(counters.get(metric, {}).values()), 0)
    return problems


def _scored(probes: int, rules: int) -> Proof:
    def proof(counters: Counters, load: Load) -> list[str]:
        problems = _counted(counters, load)
        scored = counters.get("pilothouse_probe_tokens_total", {})
        problems += _wrong("probes that scored", len(scored), probes)
        for probe, count in scored.items():
            if count < load.fed_tokens:
                problems.append(f"{probe} scored {count:.0f} tokens of {load.fed_tokens} fed")
        decided = sum(counters.get("pilothouse_decisions_total", {}).values())
        return problems + _wrong("pilothouse_decisions_total", decided, rules * load.requests)

    return proof


def _steered(vectors: int) -> Proof:
    def proof(counters: Counters, load: Load) -> list[str]:
        steered = counters.get("pilothouse_steered_tokens_total", {})
        problems = _counted(counters, load)
        problems += _wrong("vectors in use", len([n for n in steered.values() if n]), vectors)
        problems += _wrong("steered tokens", sum(steered.values()), load.fed_tokens)
        return problems

    return proof


def _as_the_demo(counters: Counters, load: Load) -> list[str]:
    """Every request steered by a profile, read by the probe and judged by the policy."""
    problems = _counted(counters, load)
    least = {
        "pilothouse_probe_tokens_total": load.requests,
        "pilothouse_decisions_total": load.requests,
        "pilothouse_steered_tokens_total": load.output_tokens - load.requests,
    }
    for metric, want in least.items():
        found = sum(counters.get(metric, {}).values())
        if found < want:
            problems.append(f"{metric}: got {found:.0f}, want at least {want}")
    return problems


def _wrong(what: str, got: float, want: float) -> list[str]:
    return [] if got == want else [f"{what}: got {got:.0f}, want {want:.0f}"]


CASES = (
    Case("installed", 1.00, "pilothouse serve with nothing loaded", None, _unused),
    Case(
        "idle", 0.995, "3 probes, 1 vector and 1 SAE loaded, no request uses them", _idle, _unused
    ),
    Case(
        "probes8",
        0.99,
        "8 probes at one layer; a policy reads all 8 on every request and token",
        _probes8("log"),
        _scored(8, 2),
    ),
    Case(
        "layer1",
        0.99,
        "one layer, additive, every request at a strength of its own",
        _one_direction,
        _steered(1),
        PROFILES,
    ),
    Case(
        "layers_all",
        0.98,
        "every layer, additive, every request another vector and strength",
        _every_layer,
        _steered(PROFILES),
        PROFILES,
    ),
    Case(
        "programs32",
        0.98,
        "one layer, 32 different vectors in a batch of 32",
        _programs(PROFILES),
        _steered(PROFILES),
        PROFILES,
    ),
    Case(
        "norm",
        0.99,
        "as layer1, and every token's norm is restored; no goal is stated for it, so "
        "layer1's is taken",
        _norm,
        _steered(1),
        PROFILES,
    ),
    Case(
        "sae_feature",
        0.98,
        "one layer, one feature of an SAE set, every request another feature and value",
        _features,
        _steered(1),
        PROFILES,
    ),
    Case(
        "programs64",
        0.98,
        "one layer, 64 different vectors in a batch of 256",
        _programs(64),
        _steered(64),
        64,
        WIDE,
    ),
    Case(
        "programs256",
        0.97,
        "one layer, 256 different vectors in a batch of 256",
        _programs(256),
        _steered(256),
        256,
        WIDE,
    ),
    Case(
        "rank8x4",
        0.97,
        "low-rank maps of rank 8 at 4 layers, 64 different ones in a batch of 256",
        _maps(64),
        _steered(64),
        64,
        WIDE,
    ),
)
EXTRA = (
    Case(
        "control256",
        None,
        "as control, with the bursts of 256 requests",
        None,
        lambda _counters, _load: [],
        burst=WIDE,
        plain=True,
    ),
    Case(
        "control",
        None,
        "plain vLLM against a second plain vLLM: the method's own error",
        None,
        lambda _counters, _load: [],
        plain=True,
    ),
    Case(
        "probes8_block",
        None,
        "as probes8, but the rules may block, so that each answer is held "
        "back by one token and takes one step more",
        _probes8("block"),
        _scored(8, 2),
    ),
)
ALL = {each.name: each for each in (*CASES, *EXTRA)}


def on_smol(case: Case) -> Case:
    """The same case with bursts that the real model answers in a quarter of a minute on two cores.

    Those that are about 32 or 256 requests in one batch keep that many.
    """
    if case.burst == WIDE:
        return case
    burst = SMOL_OF_32 if case.name in ("layers_all", "programs32") else SMOL
    return replace(case, burst=burst, profiles=min(case.profiles, burst.requests))


DEMO = Case(
    "demo",
    0.99,
    "all that the demo loads with the real model: every request steered by one of "
    "its profiles, read by its probes and judged by its policies; no goal is stated for it, so "
    "layer1's is taken",
    _demo,
    _as_the_demo,
    burst=SMOL,
    names=demo_profiles,
)
ON_SMOL = {each.name: each for each in (*map(on_smol, ALL.values()), DEMO)}
SMOL_BY_DEFAULT = (*(each.name for each in CASES if each.burst != WIDE), DEMO.name)
"""The bursts of 256 requests take minutes each on two cores, and run when they are named."""


@dataclass(frozen=True, slots=True)
class HostCase:
    """Processor time of ours per step, without HTTP or a model; `goal_us` is the most allowed."""

    name: str
    goal_us: float
    what: str
    job: str
    """The name of the job in `host_step`."""
    rounds: int = 10
    steps: int = 100


HOST_STEP = HostCase(
    "host_step",
    1000.0,
    "host work of ours in a decode step of 256 requests, all in: 8 probes, rules that may block, a "
    "program each, scores for clients",
    "all, and clients see scores",
)
