"""Every operator at every site, in one batch, against transformers with hooks.

Also a program (`python -m tests.support.parity.sites gpt2 --workers 2 --compiled`), for settings
that need a process of their own.

Shape suffixes: T positions, V vocabulary, D width of a site, E sites.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pilothouse.artifacts.catalog import Catalog
from pilothouse.artifacts.probe import Probe, build_probe
from pilothouse.artifacts.transform import Transform, build_transform
from pilothouse.artifacts.vector import Vector, build_vector
from pilothouse.engine.launch import WORKER
from pilothouse.term import SteerTerm
from pilothouse.types import PROJECTION_SITES, Site
from tests.reference import operators as oracle
from tests.reference.hf_sites import SiteModel
from tests.support.engines.catalogs import policy, readout
from tests.support.engines.harness import Engine, all_logprobs, engine, make_plan
from tests.support.models.tiny_architectures import D_MODEL, architectures, make_architecture
from tests.support.parity.operators import RESERVED
from tests.support.parity.steering import LEAST_MISS, LEAST_MOVE, TOLERANCE, V2_WORKER

LAYER = 1
PROMPT = np.random.default_rng(4).integers(3, 256, 19).tolist()
TOKENS = 4
LIMITS = {"max_norm_ratio": 1e9, "max_rank": 8}
Place = tuple[int, Site]
Change = Callable[[np.ndarray], np.ndarray]


def place_of(site: Site) -> Place:
    """Where artefacts of a site are."""
    return (0 if site == "embed" else LAYER), site


def seen_as(site: Site) -> tuple[int, str]:
    """The same place by the reference's names."""
    return (0, "resid_pre") if site == "embed" else (LAYER, site)


@dataclass(frozen=True)
class Numbers:
    """What the artefacts of one site are made of; `norm` is of a token there."""

    width: int
    norm: float
    v: np.ndarray
    plane: np.ndarray
    rotation: np.ndarray
    weight: np.ndarray
    offset: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    read: np.ndarray


def draw_numbers(values_TD: np.ndarray, seed: int) -> Numbers:
    """Random artefacts in proportion to what a site carries; `v` and `plane` lean to its mean."""
    draw, width = np.random.default_rng(seed), values_TD.shape[1]
    norm = float(np.linalg.norm(values_TD, axis=1).mean())

    def rows(count: int) -> np.ndarray:
        narrow = np.linalg.qr(draw.normal(size=(width, count)))[0].T.astype(np.float32)
        return narrow.astype(np.float64)

    mean = values_TD.mean(axis=0)
    along = mean / np.linalg.norm(mean) + rows(1)[0]
    single = (2.0 * norm * along / np.linalg.norm(along)).astype(np.float32).astype(np.float64)
    turned = np.linalg.qr(np.stack([single, draw.normal(size=width)], axis=1))[0].T
    plane = (turned * np.sign(turned[0] @ single)).astype(np.float32).astype(np.float64)
    return Numbers(
        width=width,
        norm=norm,
        v=single,
        plane=plane,
        rotation=rows(3),
        weight=(draw.normal(size=(3, width)) * 0.2).astype(np.float32).astype(np.float64),
        offset=(draw.normal(size=3) * norm).astype(np.float32).astype(np.float64),
        scale=draw.uniform(0.3, 1.7, width).astype(np.float32).astype(np.float64),
        shift=(draw.normal(size=width) * norm / np.sqrt(width)).astype(np.float32),
        read=(rows(1)[0] / max(norm, 1e-3)).astype(np.float32),
    )


def artefacts(site: Site, n: Numbers) -> tuple[dict[str, Vector | Transform], Probe]:
    """The vector, transforms and probe of a site."""
    layer = place_of(site)[0]
    about: dict[str, Any] = {
        "model_id": "tiny",
        "layers": (layer,),
        "created_by": "tests",
        "site": site,
        "d_model": D_MODEL if site in PROJECTION_SITES else None,
    }
    norms_L = np.array([n.norm], np.float32)

    def transform(name: str, form: Any, **arrays: np.ndarray) -> Transform:
        narrow = {key: array[None].astype(np.float32) for key, array in arrays.items()}
        return build_transform(
            f"{site}-{name}", form=form, arrays=narrow, residual_norms_L=norms_L, **about
        )

    bound = np.full(n.width, n.norm / np.sqrt(n.width))
    edits: dict[str, Vector | Transform] = {
        site: build_vector(
            site, directions_LD=n.v[None].astype(np.float32), residual_norms_L=norms_L, **about
        ),
        f"{site}-plane": transform("plane", "plane", basis=n.plane),
        f"{site}-reft": transform(
            "reft", "lowrank", read=n.weight - n.rotation, write=n.rotation, bias=n.offset
        ),
        f"{site}-act": transform(
            "act", "diagonal", weight=n.scale - 1, bias=n.shift, low=-bound, high=2 * bound
        ),
    }
    probe = build_probe(
        site,
        weights_LD=n.read[None],
        bias=0.0,
        token_slope=1.0,
        token_offset=0.0,
        readouts={"all": readout("answer"), "prompt": readout("prompt", "max")},
        default_readout="all",
        **about,
    )
    return edits, probe


def cases(site: Site, n: Numbers) -> dict[str, tuple[list[dict[str, Any]], Change]]:
    """Operator -> its terms, and what they do to a token."""
    far = 2.0 * n.norm
    bound = n.norm / np.sqrt(n.width)
    low, high = np.full(n.width, -bound), np.full(n.width, 2 * bound)
    gate = {"probe": site, "above": 0.1, "sharpness": 3.0}

    def both(h: np.ndarray) -> np.ndarray:
        mapped = oracle.linear_transport(h, n.scale, n.shift, low, high, 1.0)
        return oracle.restored(h, oracle.ablate(mapped, n.v))

    single: dict[str, tuple[dict[str, Any], Change]] = {
        "add": ({"scale": 0.7}, lambda h: oracle.add(h, n.v, 0.7)),
        "norm kept": (
            {"scale": 0.7, "restore_norm": True},
            lambda h: oracle.restored(h, oracle.add(h, n.v, 0.7)),
        ),
        "ablate": ({"op": "ablate"}, lambda h: oracle.ablate(h, n.v)),
        "reflect": ({"op": "reflect"}, lambda h: oracle.reflect(h, n.v)),
        "set": ({"op": "set", "value": far}, lambda h: oracle.set_projection(h, n.v, far)),
        "floor": ({"op": "floor", "value": far}, lambda h: oracle.floor_projection(h, n.v, far)),
        "cap": ({"op": "cap", "value": -far}, lambda h: oracle.cap_projection(h, n.v, -far)),
        "affine": (
            {"op": "affine", "scale": -0.5, "value": far},
            lambda h: oracle.affine(h, n.v, -0.5, far),
        ),
        "rotate": (
            {"vector": f"{site}-plane", "value": 135.0},
            lambda h: oracle.rotate(h, n.plane, 135.0),
        ),
        "rotate adaptively": (
            {"vector": f"{site}-plane", "op": "rotate_adaptive", "value": 160.0},
            lambda h: oracle.rotate_adaptive(h, n.plane, 160.0),
        ),
        "slerp": ({"op": "slerp", "scale": 0.4}, lambda h: oracle.slerp(h, n.v, 0.4)),
        "token units": (
            {"scale": -0.7, "unit": "token"},
            lambda h: oracle.relative_add(h, n.v, -0.7),
        ),
        "add below": (
            {"op": "add_below", "scale": 0.7, "value": far},
            lambda h: oracle.add_below(h, n.v, 0.7, far),
        ),
        "never longer": (
            {"scale": 0.7, "restore_norm": "if_longer"},
            lambda h: oracle.shortened(h, oracle.add(h, n.v, 0.7)),
        ),
        "LoReFT": (
            {"vector": f"{site}-reft"},
            lambda h: oracle.loreft(h, n.rotation, n.weight, n.offset),
        ),
        "AcT": (
            {"vector": f"{site}-act", "scale": 0.7},
            lambda h: oracle.linear_transport(h, n.scale, n.shift, low, high, 0.7),
        ),
        "replace": ({"op": "replace"}, lambda h: n.v + 0 * h),
        "gated": (
            {"scale": 0.7, "gate": gate},
            lambda h: oracle.gated_add(h, n.v, 0.7, float(n.read @ h), 0.1, 3.0),
        ),
    }
    several = [{"vector": f"{site}-act"}, {"op": "ablate", "restore_norm": True}]
    found = {name: ([term], change) for name, (term, change) in single.items()}
    return found | {"map, ablation and norm": (several, both)}


def policies(sites: Mapping[Site, Numbers]) -> list[Any]:
    """For each site one that ablates its vector from the first output token on, always."""
    return [
        policy(
            site.replace("_", "-"),
            [
                {
                    "id": "r",
                    "phase": "prompt",
                    "when": "x >= 0.000001",
                    "then": {"action": "steer", "vector": site, "op": "ablate"},
                }
            ],
            {"x": f"{site}/prompt"},
        )
        for site in sites
    ]


def check(started: Engine, reference: SiteModel, sites: Mapping[Site, Numbers]) -> float:
    """All operators at all sites in one batch; the largest error.

    Raises:
        AssertionError: an error above the tolerance, or a case that could not have failed.
    """
    wanted: dict[str, tuple[Site, Change, bool]] = {}
    for site, numbers in sites.items():
        for name, (terms, change) in cases(site, numbers).items():
            key = f"{site}: {name}"
            steer = [
                SteerTerm.model_validate({"vector": site, "on": "all"} | term) for term in terms
            ]
            _ask(started, key, steer=steer, probes=[site])
            wanted[key] = (site, change, True)
        key = f"{site}: policy"
        _ask(started, key, policies=[site.replace("_", "-")])
        wanted[key] = (site, lambda h, v=numbers.v: oracle.ablate(h, v), False)
    outputs = started.drain()
    plain = reference.run(PROMPT).values
    errors = [_check_reads(started, site, n, plain) for site, n in sites.items()]
    for key, (site, change, everywhere) in wanted.items():
        errors.append(_check_case(key, outputs[key], reference, site, change, everywhere))
    return max(errors)


def _ask(started: Engine, key: str, **sealed: Any) -> None:
    params = started.params(max_tokens=TOKENS, logprobs=-1, decision_id=key, **sealed)
    started.add(key, PROMPT, params)


def _check_case(
    key: str, output: Any, reference: SiteModel, site: Site, change: Change, everywhere: bool
) -> float:
    tokens = [*PROMPT, *output.outputs[0].token_ids]
    got_TV = all_logprobs(output)

    def expected(edits: Mapping[Any, Any]) -> np.ndarray:
        return reference.run(tokens, edits).logprobs_TV[len(PROMPT) - 1 : -1]

    def changed(values_TD: np.ndarray) -> np.ndarray:
        start = 0 if everywhere else len(PROMPT)
        edited_TD = values_TD.copy()
        edited_TD[start:] = [change(value_D) for value_D in values_TD[start:]]
        return edited_TD

    here = seen_as(site)
    want_TV, plain_TV = expected({here: changed}), expected({})
    error = float(np.abs(got_TV - want_TV).max())
    assert error <= TOLERANCE, f"{key}: log-probabilities differ by {error:.2e}"
    moved = float(np.abs(plain_TV - want_TV).max())
    assert moved >= LEAST_MOVE, f"{key}: the edit moves the reference by {moved:.3f} only"
    elsewhere = (here[0] + 1, here[1])
    missed = float(np.abs(got_TV - expected({elsewhere: changed})).max())
    assert missed >= LEAST_MISS, f"{key}: the next layer would pass ({missed:.1e})"
    return error


def _check_reads(started: Engine, site: Site, n: Numbers, plain: Mapping[Any, Any]) -> float:
    reads = started.reads(f"{site}: set")
    assert started.plan is not None
    column = started.plan.body.probes[site].columns[0]
    got_T = np.array([reads[t][column] for t in range(len(PROMPT))])
    want_T = plain[seen_as(site)] @ n.read
    error = float(np.abs(got_T - want_T).max())
    assert np.abs(want_T).max() >= LEAST_MOVE
    assert error <= TOLERANCE, f"{site}: reads differ by {error:.1e}"
    return error


def run_check(
    name: str, folder: Path, *, v2: bool = False, compiled: bool = False, workers: int = 1
) -> dict[str, Any]:
    """Make the model, start one engine, check every operator at every site it has."""
    make_architecture(folder, name)
    reference = SiteModel(folder, name)
    plain = reference.run(PROMPT).values
    sites: dict[Site, Numbers] = {
        site: draw_numbers(plain[seen_as(site)], seed)
        for seed, site in enumerate(SITES_OF.get(name, ALL_SITES))
    }
    loaded = {site: artefacts(site, numbers) for site, numbers in sites.items()}
    catalog = Catalog(
        vectors={key: each for edits, _ in loaded.values() for key, each in edits.items()},
        probes={site: probe for site, (_, probe) in loaded.items()},
    )
    plan = make_plan(catalog, policies(sites), limits=LIMITS | {"max_programs": 200}, **RESERVED)
    settings: dict[str, Any] = {"enforce_eager": not compiled, "max_num_seqs": 200}
    if workers > 1:
        settings |= {"tensor_parallel_size": workers, "distributed_executor_backend": "mp"}
    worker = V2_WORKER if v2 else WORKER
    with engine(folder, plan, worker=worker, max_num_batched_tokens=512, **settings) as started:
        return {"error": check(started, reference, sites), "sites": sorted(sites)}


ALL_SITES: tuple[Site, ...] = (
    "embed",
    "resid_pre",
    "attn_heads",
    "attn_out",
    "resid_mid",
    "mlp_neurons",
    "mlp_out",
    "resid_post",
)
SITES_OF: dict[str, tuple[Site, ...]] = {
    "mixtral": tuple(site for site in ALL_SITES if site != "mlp_neurons"),
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=sorted(architectures()))
    parser.add_argument("--workers", type=int, default=1)
    for flag in ("--v2", "--compiled"):
        parser.add_argument(flag, action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run_check(
            args.name, Path(folder), v2=args.v2, compiled=args.compiled, workers=args.workers
        )
    sys.stdout.write(f"parity holds at {found['sites']}, largest error {found['error']:.1e}\n")


if __name__ == "__main__":
    main()
