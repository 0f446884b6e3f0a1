"""From a client's body to a sealed request: names resolved, limits kept, nothing passed by."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilothouse.engine.conflict import enforced_read_layers, refuse_conflicts
from pilothouse.engine.excess import refuse_excess, refuse_unreserved
from pilothouse.engine.facts import SaeFacts, VectorFacts
from pilothouse.engine.plan import Plan
from pilothouse.errors import RequestError
from pilothouse.limits import EngineSize, ServedLimits, refuse_count
from pilothouse.policy.endpoint import Endpoint
from pilothouse.policy.matching import RequestFacts, applied_policies
from pilothouse.sealed import SEALED_KEY, AppliedPolicy, SealedRequest, seal
from pilothouse.server.bypass import Guard, refuse_bypass, refuse_crowd
from pilothouse.server.exposure import Exposure, Exposures
from pilothouse.server.fields import FIELD, RequestField, parse_field
from pilothouse.server.identity import Caller
from pilothouse.term import SteerTerm

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may go on to vLLM, and what shaping its answer will need."""

    decision_id: str
    sealed: SealedRequest
    exposure: Exposure
    asked_model: str | None
    """The name to answer with; None where vLLM's own is right."""
    model_label: str
    stream: bool
    num_prompts: int
    num_per_prompt: int
    sees_scores: bool


class Admission:
    """Checks requests against one plan.

    Args:
        served_names: what vLLM serves the model as; the first is its own answer to no name.
        engine: what bounds are made of that pilothouse.yaml leaves open.
    """

    def __init__(
        self,
        plan: Plan,
        served_names: Sequence[str],
        key: bytes,
        engine: EngineSize | None = None,
    ) -> None:
        self._plan = plan
        self.limits = plan.body.limits.served(engine)
        _ = plan.sources  # made here, and not by the first request
        self._served = tuple(served_names)
        self._key = key
        self._exposures = Exposures(plan.rulebook)
        self._enforced_reads = enforced_read_layers(plan.rulebook)
        self._enforced = any(policy.spec.mode == "enforce" for policy in plan.policies)

    def admit(self, body: Body, endpoint: Endpoint, caller: Caller) -> Admitted:
        """Check `body`, and rewrite it in place into what vLLM gets.

        Raises:
            RequestError: refused; nothing has reached the engine.
        """
        field = parse_field(body.get(FIELD), caller, self.limits)
        profile = self._profile(body.get("model"))
        exposure = self._exposures.of(self._applied(body.get("model"), profile, endpoint, caller))
        refuse_bypass(body, Guard(self._enforced, exposure.ends_output))
        num_prompts, num_per_prompt = _num_prompts(body, endpoint), _num_per_prompt(body)
        refuse_crowd(num_prompts, num_per_prompt)
        refuse_choices(num_prompts, num_per_prompt, self.limits)
        steer = self._steering(field, profile)
        sealed = SealedRequest(
            decision_id=uuid.uuid4().hex,
            revision=self._plan.revision,
            steer=steer,
            policies=exposure.applied,
            probes=self._probes(field),
            scores=self._scores(field, caller),
        )
        asked = body.get("model")
        self._rewrite(body, sealed, profile)
        return Admitted(
            decision_id=sealed.decision_id,
            sealed=sealed,
            exposure=exposure,
            asked_model=asked if profile is not None else None,
            model_label=profile or (asked if isinstance(asked, str) else self._served[0]),
            stream=bool(body.get("stream")),
            num_prompts=num_prompts,
            num_per_prompt=num_per_prompt,
            sees_scores=caller.may_see_scores,
        )

    def _profile(self, name: Any) -> str | None:
        return name if isinstance(name, str) and name in self._plan.body.profiles else None

    def _applied(
        self, asked: Any, profile: str | None, endpoint: Endpoint, caller: Caller
    ) -> tuple[AppliedPolicy, ...]:
        """The policies that match under any served name: an alias is no way around one.

        An adapter is asked for by its own name, which adds the policies that name it and takes
        none away.
        """
        enforced: dict[str, bool] = {}
        for name in (*self._served, asked) if isinstance(asked, str) else self._served:
            facts = RequestFacts(caller.tenant, name, profile, endpoint, caller.rollout_key)
            for each in applied_policies(self._plan.policies, facts):
                enforced[each.name] = enforced.get(each.name, False) or each.enforced
        return tuple(AppliedPolicy(name=name, enforced=on) for name, on in enforced.items())

    def _steering(self, field: RequestField, profile: str | None) -> tuple[SteerTerm, ...]:
        own = self._plan.body.profiles[profile].steer if profile is not None else ()
        terms = (*own, *field.steer)
        if field.steer:
            for index, term in enumerate(field.steer):
                self._check_term(index, term)
            refuse_excess(terms, self._plan, origin=f"{FIELD}.steer")
            refuse_conflicts(field.steer, self._plan, self._enforced_reads, origin=f"{FIELD}.steer")
        return terms

    def _check_term(self, index: int, term: SteerTerm) -> None:
        body, place = self._plan.body, f"{FIELD}.steer.{index}"
        loaded: Mapping[str, VectorFacts | SaeFacts]
        kind, loaded = ("vector", body.vectors) if term.sae is None else ("sae", body.saes)
        if term.name not in loaded:
            raise RequestError(
                f"{place}.{kind}: got {term.name!r}, available are {sorted(loaded)}",
                param=f"{place}.{kind}",
            )
        layers = loaded[term.name].layers
        for layer in term.layers or ():
            if layer not in layers:
                raise RequestError(
                    f"{place}.layers: got {layer}, {term.name!r} has {list(layers)}",
                    param=f"{place}.layers",
                )
        refuse_unreserved(term, self._plan, place)

    def _probes(self, field: RequestField) -> tuple[str, ...]:
        loaded = self._plan.body.probes
        for index, name in enumerate(field.probes):
            if name not in loaded:
                raise RequestError(
                    f"{FIELD}.probes.{index}: got {name!r}, available are {sorted(loaded)}",
                    param=f"{FIELD}.probes.{index}",
                )
        return tuple(dict.fromkeys(field.probes))

    def _scores(self, field: RequestField, caller: Caller) -> Any:
        if field.scores is None:
            return "summary" if caller.may_see_scores else "none"
        return field.scores

    def _rewrite(self, body: Body, sealed: SealedRequest, profile: str | None) -> None:
        body.pop(FIELD, None)
        if profile is not None:
            body["model"] = self._served[0]
        extra = body.get("vllm_xargs")
        body["vllm_xargs"] = {
            **(extra if isinstance(extra, dict) else {}),
            SEALED_KEY: seal(sealed, self._key),
        }


def label_names(plan: Plan, served_names: Iterable[str]) -> frozenset[str]:
    """Every name a model can be asked by: the closed set of the `model_name` label."""
    return frozenset(served_names) | frozenset(plan.body.profiles)


def refuse_choices(num_prompts: int, num_per_prompt: int, limits: ServedLimits) -> None:
    """Leave a part of the engine to others: choices of a request run at the same time.

    Raises:
        RequestError: more prompts times `n` than `limits.max_choices`.
    """
    refuse_count(
        f"n: {num_prompts} prompts with {num_per_prompt} choices each",
        num_prompts * num_per_prompt, "max_choices", limits, "n",
    )  # fmt: skip


def _num_prompts(body: Body, endpoint: Endpoint) -> int:
    """A list of texts or of token lists is one prompt each; a list of tokens is one prompt."""
    prompt = body.get("prompt") if endpoint == "completions" else None
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        return len(prompt)
    return 1


def _num_per_prompt(body: Body) -> int:
    n = body.get("n")
    return n if isinstance(n, int) and not isinstance(n, bool) and n > 0 else 1
