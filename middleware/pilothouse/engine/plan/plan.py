"""The plan: everything engine processes and the gate must agree on.

The one of the start rides in vLLM's `additional_config`, behind its digest (`engine.opaque_plan`),
so it reaches every process, is part of the compile cache's key, and no log can print it. Tensors
travel inside it: remote workers inherit no files. (SAEs do not: programs are compiled by gate and
scheduler, which read them.) Later plans of the same installation follow it at run time
(`engine.revisions`).

Shape suffixes: L layers of an artefact, D hidden size, E read columns of a tap, P policy targets.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from safetensors.numpy import load, save

from pilothouse.artifacts.catalog import Source
from pilothouse.artifacts.manifest import TransformForm
from pilothouse.artifacts.saes.cache import opened_sae
from pilothouse.artifacts.transform import build_transform
from pilothouse.artifacts.vector import build_vector
from pilothouse.config import Auth, Gate, PilothouseConfig, Profile
from pilothouse.edits.sources import ReadRow, Sources
from pilothouse.engine.plan.opaque_plan import OpaquePlan
from pilothouse.engine.plan.spec import (
    Frozen,
    LoggedSae,
    ModelFacts,
    ProbeFacts,
    SaeFacts,
    VectorFacts,
)
from pilothouse.engine.plan.tap_plan import TapPlan
from pilothouse.engine.plan.turn_markers import TurnMarkers
from pilothouse.errors import EngineError
from pilothouse.head import LINEAR
from pilothouse.limits import Limits, RequestLimits
from pilothouse.policy.loader import policy_from_json
from pilothouse.policy.rulebook import Rulebook
from pilothouse.term import NamedReserved, SteerTerm
from pilothouse.types import SignalSpec, Tap

if TYPE_CHECKING:
    from pilothouse.policy.schema import Policy
    from pilothouse.types import FloatArray

ADDITIONAL_KEY = "pilothouse"

VECTOR_HEAD = "vector/"

Wire = dict[str, str]
"""A plan as text, fit for any serialiser."""

CHANGEABLE_LIMITS = frozenset({"max_norm_ratio", "max_wait_ms", *RequestLimits.model_fields})
"""Limits that a plan can have otherwise than the one it follows."""
AT_RUN_TIME: Mapping[str, bool | set[str]] = {
    "revision": True,
    "config_digest": True,
    "vectors": True,
    "saes": True,
    "profiles": True,
    "auth": True,
    "limits": set(CHANGEABLE_LIMITS),
}
"""Fields of a body that a plan can have otherwise than the one it follows."""


class PolicyTarget(Frozen):
    """A program of the policy stage: resident, strengths are coefficients."""

    term: SteerTerm
    digest: str


class PlanBody(Frozen):
    """The JSON half of a plan."""

    revision: str
    config_digest: str
    demo: bool
    model: ModelFacts
    turns: TurnMarkers
    taps: tuple[TapPlan, ...]
    num_columns: int
    probes: dict[str, ProbeFacts]
    probe_signals: tuple[SignalSpec, ...]
    vectors: dict[str, VectorFacts]
    saes: dict[str, SaeFacts]
    logged: tuple[LoggedSae, ...] = ()
    policy_targets: tuple[PolicyTarget, ...]
    policies: tuple[dict[str, Any], ...]
    profiles: dict[str, Profile]
    operators: tuple[NamedReserved, ...]
    limits: Limits
    auth: Auth
    gate: Gate


@dataclass(frozen=True, repr=False)
class Plan:
    """A resolved plan: JSON body, float32 tensors by name, and the rulebook made from it.

    Tensors: `vector/<name>/<array>` [L, ...], `reads/<layer>/<site>` [D, E],
    `hidden/<layer>/<site>/<number>/<array>` as `plan.read_rows` makes them, and
    `policy/<layer>/<site>/<table>`, the policies' tables as `engine.tables` takes them.
    """

    body: PlanBody
    tensors: Mapping[str, FloatArray]
    policies: tuple[Policy, ...]
    rulebook: Rulebook
    config: PilothouseConfig = field(default_factory=lambda: PilothouseConfig(version=1))
    """What it was resolved from; the next one is this with changes."""

    def __repr__(self) -> str:
        """Return the revision alone: a plan is large, and its vectors are somebody's property."""
        return f"Plan({self.revision})"

    @classmethod
    def build(
        cls,
        body: PlanBody,
        tensors: Mapping[str, FloatArray],
        config: PilothouseConfig | None = None,
    ) -> Plan:
        """Return the plan of a body and its tensors; policies are read back from their JSON."""
        policies = tuple(policy_from_json(each) for each in body.policies)
        rulebook = Rulebook(
            policies,
            {spec.key: spec for spec in body.probe_signals},
            default_readouts={name: each.default_readout for name, each in body.probes.items()},
            vectors={name: each.layers for name, each in body.vectors.items()},
            saes={name: each.layers for name, each in body.saes.items()},
        )
        return cls(body, tensors, policies, rulebook, config or PilothouseConfig(version=1))

    def to_wire(self) -> Wire:
        """Return the plan as text."""
        contiguous = {name: np.ascontiguousarray(each) for name, each in self.tensors.items()}
        return {
            "body": self.body.model_dump_json(),
            "tensors": base64.b64encode(save(contiguous)).decode() if contiguous else "",
            "config": self.config.model_dump_json(),
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, str]) -> Plan:
        """Return the inverse of `to_wire`."""
        tensors = load(base64.b64decode(wire["tensors"])) if wire["tensors"] else {}
        return cls.build(
            PlanBody.model_validate_json(wire["body"]),
            tensors,
            PilothouseConfig.model_validate_json(wire["config"]),
        )

    def to_additional_config(self) -> dict[str, object]:
        """Return what goes into vLLM's `additional_config`."""
        return {ADDITIONAL_KEY: OpaquePlan(self.to_wire())}

    @classmethod
    def from_additional_config(cls, additional: object) -> Plan:
        """Return the plan in an `additional_config`.

        Raises:
            EngineError: there is none, or only what is left of one after a way as plain text.
        """
        if not isinstance(additional, dict) or ADDITIONAL_KEY not in additional:
            raise EngineError(
                "vLLM's additional_config carries no Pilothouse plan; start the server with "
                "`pilothouse serve`, not with --worker-cls or --scheduler-cls"
            )
        hidden = additional[ADDITIONAL_KEY]
        if not isinstance(hidden, OpaquePlan):
            raise EngineError(
                f"additional_config.{ADDITIONAL_KEY}: got {type(hidden).__name__}, want the plan "
                "itself: vLLM's configuration came to this process as text, which carries the "
                "plan's digest alone; it has to be pickled"
            )
        return cls.from_wire(hidden.wire)

    @property
    def revision(self) -> str:
        """Twelve hex digits over everything in the plan."""
        return self.body.revision

    @cached_property
    def installation(self) -> str:
        """Twelve hex digits over what is fixed at start; later plans of a server share it."""
        fixed = self.body.model_dump(mode="json", exclude=dict(AT_RUN_TIME))
        parts = [json.dumps(fixed, sort_keys=True).encode()]
        for name in sorted(self.tensors):
            if not name.startswith(VECTOR_HEAD):
                parts += [name.encode(), np.ascontiguousarray(self.tensors[name]).tobytes()]
        return digest_of(*parts)[:12]

    @cached_property
    def sources(self) -> Sources:
        """What programs come from: rebuilt from the tensors, SAEs read from their files.

        Raises:
            ArtefactError, EngineError: an SAE's files are gone or changed.
        """
        edits = {name: self._source(name, facts) for name, facts in self.body.vectors.items()}
        reads = {
            name: self._read_rows(name)
            for name, facts in self.body.probes.items()
            if facts.head == LINEAR
        }
        saes = {
            name: opened_sae(name, facts.ref, facts.digest)
            for name, facts in self.body.saes.items()
        }
        return Sources(edits, reads, self.body.model.num_layers, saes)

    def _source(self, name: str, facts: VectorFacts) -> Source:
        head = f"{VECTOR_HEAD}{name}/"
        arrays = {
            key.removeprefix(head): np.asarray(tensor, np.float32)
            for key, tensor in self.tensors.items()
            if key.startswith(head)
        }
        norms_L = np.asarray(facts.residual_norms, np.float32)
        model_id, d_model = self.body.model.model_id, self.body.model.d_model
        if facts.form == "vector":
            return build_vector(
                name,
                model_id=model_id,
                layers=facts.layers,
                directions_LD=arrays["directions"],
                residual_norms_L=norms_L,
                created_by="plan",
                site=facts.site,
                d_model=d_model,
            )
        return build_transform(
            name,
            form=cast(TransformForm, facts.form),
            model_id=model_id,
            layers=facts.layers,
            arrays=arrays,
            residual_norms_L=norms_L,
            created_by="plan",
            site=facts.site,
            d_model=d_model,
        )

    def _read_rows(self, probe: str) -> dict[Tap, ReadRow]:
        facts = self.body.probes[probe]
        rows = {}
        for tap in self.body.taps:
            for column in facts.columns:
                if tap.read_start <= column < tap.read_stop:
                    reads_DE = self.tensors[f"reads/{tap.layer}/{tap.site}"]
                    row_D = np.ascontiguousarray(reads_DE[:, column - tap.read_start])
                    rows[tap.tap] = ReadRow(row_D, facts.bias)
        return rows

    def taps(self) -> dict[Tap, TapPlan]:
        """Return every tap by its place."""
        return {each.tap: each for each in self.body.taps}

    @property
    def signals(self) -> tuple[SignalSpec, ...]:
        """Every streamed number: the policies' columns first, then other readouts of probes."""
        used = self.rulebook.signals
        keys = {spec.key for spec in used}
        return used + tuple(spec for spec in self.body.probe_signals if spec.key not in keys)

    def policy_tensors(self, tap: Tap) -> dict[str, FloatArray]:
        """Return the policies' tables at a tap; none where no policy steers there."""
        head = f"policy/{tap.layer}/{tap.site}/"
        return {
            key.removeprefix(head): each
            for key, each in self.tensors.items()
            if key.startswith(head)
        }

    def hidden_tensors(self, tap: Tap) -> list[dict[str, FloatArray]]:
        """Return the hidden layers that are read at a tap, in order."""
        count = len(self.taps()[tap].hidden)
        heads = [f"hidden/{tap.layer}/{tap.site}/{number}" for number in range(count)]
        names = ("weights", "bias", "rows")
        return [{name: self.tensors[f"{head}/{name}"] for name in names} for head in heads]

    def edit_taps(self) -> tuple[Tap, ...]:
        """Return where programs can edit."""
        return tuple(each.tap for each in self.body.taps if each.edits is not None)


def digest_of(*parts: bytes) -> str:
    """Hex sha256 over length-prefixed parts."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.hexdigest()
