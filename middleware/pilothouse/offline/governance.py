"""A batch governed without HTTP: each prompt is admitted, and settled, as a server's request is."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final

from vllm import SamplingParams

from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.vllm import output_processor
from pilothouse.errors import ConfigError, RequestError
from pilothouse.policy.endpoint_names import EndpointName
from pilothouse.policy.matching import refuse_scored_answers
from pilothouse.server.admission import Admission, Admitted
from pilothouse.server.auth import Caller
from pilothouse.server.request_schema import RequestFields, chooses_tokens
from pilothouse.server.response.decisions import (
    DecisionStore,
    FinalDecision,
    RequestDecisions,
    Termination,
)
from pilothouse.signed_request import SIGNED_REQUEST_KEY, signing_key
from pilothouse.term import SteerTerm
from pilothouse.types import ScoreDetail

Run = Callable[[list[SamplingParams]], list[Any]]
"""Gives the prompts to the engine with these parameters; vLLM's outputs in their order."""
Steering = Sequence[SteerTerm] | Sequence[Sequence[SteerTerm]]
"""Terms for all prompts, or for each its own."""
OPERATOR = Caller(
    tenant="",
    loopback=True,
    authenticated=True,
    may_steer=True,
    may_see_scores=True,
    rollout_key="offline",
)
"""Whoever runs Python on the machine may do everything that the plan has tables for."""

CHOOSING: Final = ("structured_outputs", "allowed_token_ids", "logit_bias", "bad_words")
"""Parameters that may choose tokens of an answer."""


class Governance:
    """Admits the prompts of a batch and says of each output what the policies did.

    Made before the engine: the engine's outputs are followed from the first.
    """

    def __init__(self, plan: Plan) -> None:
        self._decision_store = DecisionStore()
        output_processor.install()
        weakref.finalize(self, output_processor.subscribe(self._decision_store.receive))
        self.follow(plan)

    def follow(self, plan: Plan) -> None:
        """Govern what comes next by `plan`.

        Raises:
            ConfigError: a policy that needs a server.
        """
        refuse_scored_answers(
            plan.policies, "there is no server here that could score them: use one"
        )
        self._model_id = plan.body.model.model_id
        self._admission = Admission(plan, [self._model_id], signing_key())
        self._settler = FinalDecision(plan.rulebook, lambda _: None)

    def run(
        self,
        endpoint: EndpointName,
        params: Sequence[SamplingParams],
        fields: Sequence[dict[str, Any]],
        profile: str | None,
        run: Run,
    ) -> list[Any]:
        """Return the outputs of `run`, each with `.pilothouse`.

        Args:
            endpoint: the endpoint whose policies hold.
            params: vLLM's sampling parameters, one for each prompt.
            fields: the `pilothouse` field of each prompt's request.
            profile: the profile that is asked for, if any.
            run: gives the prompts to the engine.

        Raises:
            RequestError: steering, probes or a profile that the plan does not have; answers whose
                tokens are chosen for the model, under a rule that would have to score them again.
        """
        admitted, signed = [], []
        for sampling, field in zip(params, fields, strict=True):
            body: dict[str, Any] = {"pilothouse": field}
            asked = RequestFields(model=profile or self._model_id, num_per_prompt=sampling.n)
            admitted.append(self._admission.admit(body, endpoint, OPERATOR, _known(asked)))
            if admitted[-1].requirements.holds_start:
                refuse_chosen_tokens(sampling)
            own = sampling.clone()
            own.extra_args = (own.extra_args or {}) | {
                SIGNED_REQUEST_KEY: body["vllm_xargs"][SIGNED_REQUEST_KEY]
            }
            signed.append(own)
        # Only now: where one prompt of the batch is refused, nobody closes what the others opened.
        entries = [self._decision_store.open(each.decision_id) for each in admitted]
        try:
            outputs = run(signed)
        finally:
            for ours in admitted:
                self._decision_store.close(ours.decision_id)
        for output, ours, entry in zip(outputs, admitted, entries, strict=True):
            self._tell(output, ours, entry)
        return outputs

    def _tell(self, output: Any, admitted: Admitted, entry: RequestDecisions) -> None:
        output.pilothouse = {
            "decision_id": admitted.decision_id,
            "revision": admitted.signed.revision,
        }
        for completion in output.outputs:
            if entry.error is not None:
                completion.pilothouse = {"action": "refused", "error": entry.error}
                continue
            settlement = self._settler.settle(admitted, entry, (0, completion.index))
            completion.pilothouse = settlement.visible
            if settlement.ending is not None:
                _end(completion, settlement.ending)


def refuse_chosen_tokens(sampling: SamplingParams) -> None:
    """Refuse parameters that choose tokens of an answer for the model.

    A server scores such an answer again, as a user's turn, by the rules that end a prompt. Here
    nothing does, and those rules would not see it.

    Raises:
        RequestError: names the parameters.
    """
    read = {name: getattr(sampling, name) for name in CHOOSING}
    if chooses_tokens(read, has_literal_shape=False, has_strict_tool=False):
        given = ", ".join(name for name, value in read.items() if value)
        raise RequestError(
            where="sampling_params",
            got=given,
            want="none of them under an enforced rule that can end a prompt",
            fix="it would have to score what they make the model say, which a server does "
            "(`pilothouse serve`) and this does not: ask there, or load the policy in shadow",
            param=given,
        )


def _known(fields: RequestFields) -> Callable[[dict[str, Any]], RequestFields]:
    """Return what reads a body that holds nothing but our own field."""
    return lambda _: fields


def _end(completion: Any, ending: Termination) -> None:
    """Make of a completion that a verdict ended what a client gets of it."""
    completion.pilothouse["message"] = ending.message
    completion.finish_reason = "stop" if ending.action == "respond" else "content_filter"
    completion.stop_reason = None
    if ending.withholds_all:
        completion.text, completion.token_ids = "", []
        completion.logprobs = completion.cumulative_logprob = None
    if ending.action == "respond":
        completion.text = ending.message


def request_fields(
    steer: Steering, probes: Sequence[str], scores: ScoreDetail, count: int
) -> list[dict[str, Any]]:
    """Return the field of each of `count` prompts.

    Raises:
        ConfigError: lists of terms for another number of prompts.
    """
    if not any(isinstance(each, Sequence) for each in steer):
        return [_field(steer, probes, scores)] * count  # type: ignore[arg-type]
    if len(steer) != count or not all(isinstance(each, Sequence) for each in steer):
        raise ConfigError(
            f"steer: got {len(steer)} entries, some of them lists, for {count} prompts; want terms "
            "for all prompts, or one list of terms for each prompt"
        )
    return [_field(each, probes, scores) for each in steer]  # type: ignore[arg-type]


def _field(
    steer: Sequence[SteerTerm], probes: Sequence[str], scores: ScoreDetail
) -> dict[str, Any]:
    terms = [each.model_dump(mode="json", exclude_none=True) for each in steer]
    return {"steer": terms, "probes": list(probes), "scores": scores}
