"""Taps at every served site: reads and edits by plan equal transformers with hooks.

Shape suffixes: T positions, D hidden size, E read columns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pilothouse.errors import EngineError
from pilothouse.model.catalogue import SERVED_SITES, Catalogue
from pilothouse.model.probe import Probe, build_probe
from pilothouse.model.vector import Vector, build_vector
from pilothouse.term import SteerTerm
from pilothouse.types import Site
from tests.engine.harness import all_logprobs, engine, make_plan, random_rows
from tests.engine.worlds import readout
from tests.reference import operators as oracle
from tests.reference.hf_sites import SiteModel
from tests.support.tiny_architectures import make_architecture

TOLERANCE = 1e-4
PROMPT = np.random.default_rng(4).integers(3, 256, 19).tolist()
TOKENS = 4
RESERVED = {"taps": {"operators": ["add", "ablate"]}, "auth": {"client_steering": True}}
LIMITS = {"max_norm_ratio": 1e9}


def layer_of(site: Site) -> int:
    return 0 if site == "embed" else 1


def vector(site: Site, seed: int, norm: float) -> Vector:
    return build_vector(
        site,
        model_id="tiny",
        layers=(layer_of(site),),
        directions_LD=random_rows(seed, 1, norm=norm),
        residual_norms_L=np.array([norm], np.float32),
        created_by="tests",
        site=site,
    )


def probe(site: Site, row_D: np.ndarray) -> Probe:
    return build_probe(
        site,
        model_id="tiny",
        layers=(layer_of(site),),
        weights_LD=row_D[None],
        bias=0.0,
        token_slope=1.0,
        token_offset=0.0,
        readouts={"all": readout("answer")},
        default_readout="all",
        created_by="tests",
        site=site,
    )


@pytest.mark.engine
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "olmo2"])
def test_every_served_site_is_read_and_edited_where_it_is(name: str, tmp_path: Path) -> None:
    make_architecture(tmp_path, name)
    reference = SiteModel(tmp_path, name)
    stream = {
        site: reference.run(PROMPT).values[layer_of(site), "resid_pre" if site == "embed" else site]
        for site in SERVED_SITES
    }
    rows_ED = random_rows(3, len(SERVED_SITES))
    plan = make_plan(
        Catalogue(
            vectors={
                site: vector(site, i, 2.0 * float(np.linalg.norm(stream[site], axis=1).mean()))
                for i, site in enumerate(SERVED_SITES)
            },
            probes={
                site: probe(site, row_D) for site, row_D in zip(SERVED_SITES, rows_ED, strict=True)
            },
        ),
        limits=LIMITS,
        **RESERVED,
    )
    columns = {probe_name: facts.columns[0] for probe_name, facts in plan.body.probes.items()}
    with engine(tmp_path, plan) as started:
        for site in SERVED_SITES:
            for term in (
                SteerTerm(vector=site, scale=0.7, on="all"),
                SteerTerm(vector=site, op="ablate", on="all"),
            ):
                started.emissions.clear()
                params = started.params(steer=[term], probes=[site], max_tokens=TOKENS, logprobs=-1)
                started.add("r", PROMPT, params)
                output = started.drain()["r"]
                tokens = [*PROMPT, *output.outputs[0].token_ids]
                here = (layer_of(site), "resid_pre" if site == "embed" else site)
                change = edit_of(term, plan.sources.edits[site])
                want_TV = reference.run(tokens, {here: change}).logprobs_TV[len(PROMPT) - 1 : -1]
                got_TV = all_logprobs(output)
                assert np.abs(got_TV - want_TV).max() <= TOLERANCE, (site, term.op)
                plain_TV = reference.run(tokens).logprobs_TV[len(PROMPT) - 1 : -1]
                assert np.abs(plain_TV - want_TV).max() >= 1e-2, (site, term.op)
            reads = started.reads("r")
            got_T = np.array([reads[t][columns[site]] for t in range(len(PROMPT))])
            want_T = stream[site] @ rows_ED[SERVED_SITES.index(site)]
            assert np.abs(got_T - want_T).max() <= TOLERANCE * max(1.0, np.abs(want_T).max()), site


def edit_of(term: SteerTerm, loaded: object):
    """The term's definition over one token."""
    assert isinstance(loaded, Vector)
    v_D = loaded.directions_LD[0].astype(np.float64)
    if term.op == "ablate":
        return lambda h: oracle.ablate(h, v_D)
    return lambda h: oracle.add(h, v_D, 0.7)


@pytest.mark.engine
def test_a_site_that_the_model_lacks_stops_the_start(tmp_path: Path) -> None:
    make_architecture(tmp_path, "falcon")
    plan = make_plan(Catalogue(vectors={"v": vector("resid_mid", 1, 1.0)}), limits=LIMITS)
    wanted = r"resid_mid of layer 1 of Falcon.*This layer has"
    with pytest.raises(EngineError, match=wanted), engine(tmp_path, plan):
        pass
