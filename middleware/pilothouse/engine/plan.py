"""The plan: everything engine processes and the gate must agree on, resolved once at start.

It rides in vLLM's `additional_config`, so it reaches every process and is part of the compile
cache's key. Tensors travel inside it, never paths: remote workers inherit no files.

Shape suffixes: L layers of an artefact, D hidden size, E read columns of a tap, P policy targets.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import load, save

from pilothouse.config import Auth, Gate, Limits, Profile
from pilothouse.errors import EngineError
from pilothouse.model.catalogue import Catalogue
from pilothouse.model.vector import build_vector
from pilothouse.policy.loader import policy_from_json
from pilothouse.policy.rulebook import Rulebook
from pilothouse.types import SignalSpec, Site, Unit

if TYPE_CHECKING:
    from pilothouse.policy.schema import Policy
    from pilothouse.types import FloatArray

ADDITIONAL_KEY = "pilothouse"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)


class ModelFacts(_Frozen):
    """What the plan was resolved for; workers check the loaded model against it."""

    model_id: str
    num_layers: int
    d_model: int


class TapPlan(_Frozen):
    """One (layer, site): its columns in the score buffer, and whether it can be edited."""

    layer: int
    site: Site
    read_start: int
    read_stop: int
    edits: bool


class ProbeFacts(_Frozen):
    """What host code needs of a probe: its columns add up to its token logit."""

    columns: tuple[int, ...]
    bias: float
    token_slope: float
    token_offset: float
    layers: tuple[int, ...]
    readouts: tuple[str, ...]
    default_readout: str
    digest: str
    evaluated_under_steering: bool = False


class VectorFacts(_Frozen):
    """What the gate needs of a vector."""

    layers: tuple[int, ...]
    norms: tuple[float, ...]
    residual_norms: tuple[float, ...]
    digest: str


class PolicyTarget(_Frozen):
    """A program of the policy stage: resident, strengths are coefficients."""

    vector: str
    unit: Unit
    layers: tuple[int, ...]


class PlanBody(_Frozen):
    """The JSON half of a plan."""

    revision: str
    config_digest: str
    demo: bool
    model: ModelFacts
    taps: tuple[TapPlan, ...]
    num_columns: int
    probes: dict[str, ProbeFacts]
    probe_signals: tuple[SignalSpec, ...]
    vectors: dict[str, VectorFacts]
    policy_targets: tuple[PolicyTarget, ...]
    policies: tuple[dict[str, Any], ...]
    profiles: dict[str, Profile]
    limits: Limits
    auth: Auth
    gate: Gate


@dataclass(frozen=True)
class Plan:
    """A resolved plan: JSON body, float32 tensors by name, and the rulebook made from it.

    Tensors: `vector/<name>` [L, D], `reads/<layer>/<site>` [D, E], `policy/<layer>` [P, D].
    """

    body: PlanBody
    tensors: Mapping[str, FloatArray]
    policies: tuple[Policy, ...]
    rulebook: Rulebook

    @classmethod
    def build(cls, body: PlanBody, tensors: Mapping[str, FloatArray]) -> Plan:
        """The plan of a body and its tensors; policies are read back from their JSON."""
        policies = tuple(policy_from_json(each) for each in body.policies)
        rulebook = Rulebook(
            policies,
            {spec.key: spec for spec in body.probe_signals},
            default_readouts={name: each.default_readout for name, each in body.probes.items()},
            vectors={name: each.layers for name, each in body.vectors.items()},
        )
        return cls(body, tensors, policies, rulebook)

    def to_additional_config(self) -> dict[str, Any]:
        """What goes into vLLM's `additional_config`."""
        contiguous = {name: np.ascontiguousarray(each) for name, each in self.tensors.items()}
        return {
            ADDITIONAL_KEY: {
                "body": self.body.model_dump_json(),
                "tensors": base64.b64encode(save(contiguous)).decode() if contiguous else "",
            }
        }

    @classmethod
    def from_additional_config(cls, additional: object) -> Plan:
        """The plan in an `additional_config`.

        Raises:
            EngineError: there is none.
        """
        if not isinstance(additional, dict) or ADDITIONAL_KEY not in additional:
            raise EngineError(
                "vLLM's additional_config carries no Pilothouse plan; start the server with "
                "`pilothouse serve`, not with --worker-cls or --scheduler-cls"
            )
        wire = additional[ADDITIONAL_KEY]
        tensors = load(base64.b64decode(wire["tensors"])) if wire["tensors"] else {}
        return cls.build(PlanBody.model_validate_json(wire["body"]), tensors)

    @property
    def revision(self) -> str:
        """Twelve hex digits over everything in the plan."""
        return self.body.revision

    @cached_property
    def catalogue(self) -> Catalogue:
        """The vectors, rebuilt from the tensors: what host code compiles programs from."""
        vectors = {
            name: build_vector(
                name,
                model_id=self.body.model.model_id,
                layers=facts.layers,
                directions_LD=np.asarray(self.tensors[f"vector/{name}"], np.float32),
                residual_norms_L=np.asarray(facts.residual_norms, np.float32),
                created_by="plan",
            )
            for name, facts in self.body.vectors.items()
        }
        return Catalogue(vectors=vectors)

    @property
    def signals(self) -> tuple[SignalSpec, ...]:
        """Every streamed number: the policies' columns first, then other readouts of probes."""
        used = self.rulebook.signals
        keys = {spec.key for spec in used}
        return used + tuple(spec for spec in self.body.probe_signals if spec.key not in keys)

    def edit_layers(self) -> tuple[int, ...]:
        """Layers whose `resid_post` has an edit table."""
        return tuple(tap.layer for tap in self.body.taps if tap.edits)


def digest_of(*parts: bytes) -> str:
    """Hex sha256 over length-prefixed parts."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.hexdigest()
