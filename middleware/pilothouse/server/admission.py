"""From a client's body to a sealed request: names resolved, limits kept, nothing passed by."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.spec import SaeFacts, VectorFacts
from pilothouse.engine.plan.validate import (
    check_norm_limit,
    check_read_layers,
    enforced_read_layers,
    refuse_unreserved,
)
from pilothouse.errors import RequestError
from pilothouse.limits import EngineSize, ServedLimits, exceeded, refuse_count
from pilothouse.policy.endpoint_names import EndpointName
from pilothouse.policy.matching import (
    GuardRequirements,
    RequestFacts,
    RequirementsCache,
    applied_policies,
)
from pilothouse.record import CHECK_ID, Decision
from pilothouse.server.auth import Caller
from pilothouse.server.body import encoded
from pilothouse.server.refused_fields import Guard, refuse_bypass, refuse_request_id_field
from pilothouse.server.request_schema import FIELD, RequestField, RequestFields, parse_field
from pilothouse.signed_request import SIGNED_REQUEST_KEY, AppliedPolicy, SignedRequest, seal
from pilothouse.term import SteerTerm

TOKEN_FIELDS: Final = ("logit_bias", "allowed_token_ids", "stop_token_ids")
NAMED_LOGPROBS: Final = "logprob_token_ids"
"""A chat's field that names the tokens whose logprobs each place of the answer shows."""


def refuse_choices(fields: RequestFields, limits: ServedLimits) -> None:
    """Leave a part of the engine to others: choices of a request run at the same time.

    Raises:
        RequestError: more prompts times `n` than `limits.max_choices`.
    """
    refuse_count(
        f"n: {fields.num_prompts} prompts with {fields.num_per_prompt} choices each",
        fields.num_prompts * fields.num_per_prompt,
        "max_choices",
        limits,
        "n",
    )


def refuse_heavy_choices(fields: RequestFields, limits: ServedLimits) -> None:
    """Bound what every choice of a request has a copy of.

    Raises:
        RequestError: more tokens that are biased, allowed or stopped at than
            `limits.max_choice_token_ids`, or more logprobs than `limits.max_choice_logprobs`.
    """
    choices = fields.num_prompts * fields.num_per_prompt
    read = {} if fields.vllm is None else fields.vllm.__dict__  # none: asked in Python, not HTTP
    sizes = {name: len(read.get(name) or ()) for name in TOKEN_FIELDS}
    most = max(sizes, key=sizes.__getitem__)
    got = sum(sizes.values())
    refuse_count(
        f"{most}: {got} tokens for each of {choices} choices",
        got * choices,
        "max_choice_token_ids",
        limits,
        most,
    )
    named = len(read.get(NAMED_LOGPROBS) or ())
    asked = fields.num_logprobs or 0
    if asked < 0 or max(asked, named) * choices > limits.max_choice_logprobs:
        field = NAMED_LOGPROBS if named > max(asked, 0) else "logprobs"
        each = "all" if asked < 0 else max(asked, named)
        got_logprobs = f"{each} of each token of {choices} choices"
        raise exceeded(field, got_logprobs, "max_choice_logprobs", limits, param=field)


def refuse_prompt_logprobs(
    fields: RequestFields, body: Mapping[str, Any], limits: ServedLimits
) -> None:
    """Bound the logprobs of prompts, each of which vLLM makes an object of in its event loop.

    One of each token is always taken: it is what evaluation harnesses ask for.

    Raises:
        RequestError: more than `limits.max_prompt_logprobs` of prompts of that length.
    """
    asked = fields.num_prompt_logprobs
    if asked is None or 0 <= asked <= 1:
        return
    size = len(encoded(dict(body)))
    if asked < 0 or asked * size > limits.max_prompt_logprobs:
        got = f"{'all' if asked < 0 else asked} of each token in {size} bytes"
        raise exceeded(
            "prompt_logprobs", got, "max_prompt_logprobs", limits, param="prompt_logprobs"
        )


Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may go on to vLLM, and what shaping its answer will need."""

    decision_id: str
    signed: SignedRequest
    requirements: GuardRequirements
    asked_model: str | None
    """The name to answer with; None where vLLM's own is right."""
    model_label: str
    stream: bool
    num_prompts: int
    num_per_prompt: int
    caller: Caller
    include_usage: bool
    continuous_usage: bool
    system_fingerprint: str | None
    """What vLLM writes on the last chunk of a choice."""
    fields: RequestFields
    """What vLLM reads in the body."""

    @property
    def num_choices(self) -> int:
        """How many choices the answer must have."""
        return self.num_prompts * self.num_per_prompt


@dataclass(frozen=True, slots=True)
class CheckTerms:
    """Under what the texts of one check are scored."""

    model: str
    """What vLLM is asked for."""
    model_label: str
    applied: tuple[AppliedPolicy, ...]
    steer: tuple[SteerTerm, ...]
    """Of the profile, as in a request under it."""
    scores: bool
    """The caller sees scores, and what rules in shadow conclude."""


class Admission:
    """Checks requests against one plan.

    Args:
        served_names: what vLLM serves the model as; the first is its own answer to no name.
        system_fingerprint: vLLM's, of this server.
        engine: what bounds are made of that pilothouse.yaml leaves open.
    """

    def __init__(
        self,
        plan: Plan,
        served_names: Sequence[str],
        key: bytes,
        system_fingerprint: str | None = None,
        engine: EngineSize | None = None,
    ) -> None:
        self._plan = plan
        self.max_model_len = (engine or EngineSize()).max_model_len
        self.limits = plan.body.limits.served(engine)
        _ = plan.sources  # made here, and not by the first request
        self._served = tuple(served_names)
        self._key = key
        self._system_fingerprint = system_fingerprint
        self._exposures = RequirementsCache(plan.rulebook)
        self._enforced = any(policy.spec.mode == "enforce" for policy in plan.policies)

    def admit(
        self,
        body: Body,
        endpoint: EndpointName,
        caller: Caller,
        read: Callable[[Body], RequestFields],
    ) -> Admitted:
        """Check `body`, and rewrite it in place into what vLLM gets.

        Args:
            body: the JSON object that the client sent.
            endpoint: whose body it is.
            caller: who asks.
            read: what vLLM reads in the body, once our own field is out of it.

        Raises:
            RequestError: refused; nothing has reached the engine.
            Unreadable: vLLM refuses the body itself; it is not sealed.
        """
        refuse_request_id_field(body)
        field = parse_field(body.pop(FIELD, None), caller, self.limits)
        fields = read(body)
        profile = self._profile(fields.model)
        requirements = self._exposures.of(self._applied(fields.model, profile, endpoint, caller))
        refuse_bypass(fields, Guard(self._enforced, requirements.ends_output))
        refuse_choices(fields, self.limits)
        refuse_heavy_choices(fields, self.limits)
        refuse_prompt_logprobs(fields, body, self.limits)
        steer = self._steering(field, profile, requirements.applied)
        signed = SignedRequest(
            decision_id=uuid.uuid4().hex,
            revision=self._plan.revision,
            steer=steer,
            policies=requirements.applied,
            probes=self._probes(field),
            scores=self._scores(field, caller),
        )
        self._rewrite(body, signed, profile)
        return Admitted(
            decision_id=signed.decision_id,
            signed=signed,
            requirements=requirements,
            asked_model=profile,
            model_label=fields.model or self._served[0],
            stream=fields.stream,
            num_prompts=fields.num_prompts,
            num_per_prompt=fields.num_per_prompt,
            caller=caller,
            include_usage=fields.include_usage,
            continuous_usage=fields.continuous_usage,
            system_fingerprint=None if fields.include_usage else self._system_fingerprint,
            fields=fields,
        )

    def as_user_turn(
        self, admitted: Admitted, text: str, policies: tuple[AppliedPolicy, ...]
    ) -> tuple[str, Body]:
        """A request under some of the same policies that has a text scored as a user's turn.

        Its front is cut off where it is too long for the model: what was in the prompt of the
        request itself has been scored there.

        Returns:
            Its decision id, and its body for the chat endpoint, sealed.
        """
        signed = SignedRequest(
            decision_id=uuid.uuid4().hex,
            revision=self._plan.revision,
            policies=policies,
        )
        model = admitted.fields.model if admitted.asked_model is None else None
        body = {
            "model": model or self._served[0],
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 1,
            "temperature": 0,
            "truncate_prompt_tokens": -1,
            "truncation_side": "left",
            "vllm_xargs": {SIGNED_REQUEST_KEY: seal(signed, self._key)},
        }
        return signed.decision_id, body

    def check_terms(
        self, model: str | None, policies: Sequence[str] | None, caller: Caller
    ) -> CheckTerms:
        """Say under what the texts of a check are scored: as a chat of that caller would be.

        Args:
            caller: who asks for the check.
            model: as in a request: a served name, a profile or an adapter.
            policies: those of the ones that apply which are asked for; None for all.

        Raises:
            RequestError: a policy that does not apply to such a request.
        """
        profile = self._profile(model)
        applied = self._applied(model, profile, "chat", caller)
        if policies is not None:
            chosen = tuple(each for each in applied if each.name in policies)
            missing = set(policies) - {each.name for each in chosen}
            if missing:
                raise RequestError(
                    where="policies",
                    got=ascii(min(missing)),
                    want="policies that hold for a chat of yours with this model",
                    param="policies",
                )
            applied = chosen
        asked = model if profile is None else None
        return CheckTerms(
            model=asked or self._served[0],
            model_label=model or self._served[0],
            applied=applied,
            steer=() if profile is None else self._plan.body.profiles[profile].steer,
            scores=caller.may_see_scores,
        )

    def as_check(
        self, terms: CheckTerms, messages: Sequence[Mapping[str, Any]], *, is_answer: bool
    ) -> tuple[str, Body]:
        """A request that has a conversation scored, and that no rule ends.

        Args:
            terms: under what it is scored.
            messages: as a chat has them.
            is_answer: the last of them is an assistant's, and is scored as an answer.

        Returns:
            Its decision id, and its body for the chat endpoint, sealed.
        """
        signed = SignedRequest(
            decision_id=f"{CHECK_ID}{uuid.uuid4().hex}",
            revision=self._plan.revision,
            steer=terms.steer,
            policies=terms.applied,
            check=True,
            answer_turn=sum(each["role"] == "assistant" for each in messages[:-1])
            if is_answer
            else None,
        )
        body = {
            "model": terms.model,
            "messages": list(messages),
            "max_tokens": 1,
            "temperature": 0,
            "add_generation_prompt": not is_answer,
            "continue_final_message": is_answer,
            "vllm_xargs": {SIGNED_REQUEST_KEY: seal(signed, self._key)},
        }
        return signed.decision_id, body

    def unscored_verdict(self, policies: Iterable[AppliedPolicy]) -> Decision | None:
        """Return the decision on a text that cannot be scored, of a rule that ends its prompt."""
        enforced = {each.name for each in policies if each.enforced}
        for rule in self._plan.rulebook.rules_of("prompt"):
            if rule.ends and rule.policy in enforced and rule.on_error == "closed":
                return rule.decision("enforce", "error_blocked")
        return None

    def _profile(self, name: str | None) -> str | None:
        return name if name in self._plan.body.profiles else None

    def _applied(
        self, asked: str | None, profile: str | None, endpoint: EndpointName, caller: Caller
    ) -> tuple[AppliedPolicy, ...]:
        """The policies that match under any served name: an alias is no way around one.

        An adapter is asked for by its own name, which adds the policies that name it and takes
        none away.
        """
        enforced: dict[str, bool] = {}
        for name in (*self._served, asked) if asked else self._served:
            facts = RequestFacts(caller.tenant, name, profile, endpoint, caller.rollout_key)
            for each in applied_policies(self._plan.policies, facts):
                enforced[each.name] = enforced.get(each.name, False) or each.enforced
        return tuple(AppliedPolicy(name=name, enforced=on) for name, on in enforced.items())

    def _steering(
        self, field: RequestField, profile: str | None, applied: tuple[AppliedPolicy, ...]
    ) -> tuple[SteerTerm, ...]:
        own = self._plan.body.profiles[profile].steer if profile is not None else ()
        terms = (*own, *field.steer)
        if field.steer:
            for index, term in enumerate(field.steer):
                self._check_term(index, term)
            check_norm_limit(terms, self._plan, origin=f"{FIELD}.steer")
            enforced = {each.name for each in applied if each.enforced}
            reads = enforced_read_layers(self._plan.rulebook, enforced)
            check_read_layers(field.steer, self._plan, reads, origin=f"{FIELD}.steer")
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

    def _rewrite(self, body: Body, signed: SignedRequest, profile: str | None) -> None:
        if profile is not None:
            body["model"] = self._served[0]
        extra = body.get("vllm_xargs") or {}
        body["vllm_xargs"] = {**extra, SIGNED_REQUEST_KEY: seal(signed, self._key)}


def label_names(plan: Plan, served_names: Iterable[str]) -> frozenset[str]:
    """Every name a model can be asked by: the closed set of the `model_name` label."""
    return frozenset(served_names) | frozenset(plan.body.profiles)
