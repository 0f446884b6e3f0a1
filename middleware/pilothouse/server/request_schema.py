"""What a body says: what vLLM reads in it, and our own `pilothouse` field.

vLLM's request models are run once at the gate. Every decision of the gate is made on their values
and never on the JSON, where a number may be a text and `false` a number of logprobs. The values
that were read are written back into the body, so that what vLLM reads afterwards is what was
decided on. Each endpoint says in its own `read` which of vLLM's values the fields below are.

Our own field is closed, and every error says where, got and want.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from vllm.exceptions import VLLMError

from pilothouse.errors import RequestError
from pilothouse.limits import RequestLimits, refuse_count
from pilothouse.server.auth import Caller
from pilothouse.term import SteerTerm
from pilothouse.types import ScoreDetail

Body = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)

EMPTY_MEANS_NONE: Final = ("chat_template", "prompt_embeds")
"""Fields of text that say nothing when they are empty, and that vLLM refuses then."""
VLLM_EXPLAINS: Final = (
    ValidationError,
    VLLMError,
    ValueError,
    TypeError,
    OverflowError,
    NotImplementedError,
)
"""What vLLM answers with a 4xx of its own; anything else would be a 500."""


MAX_BANS = 16
"""Tokens and words that may be banned before what is left is the client's choice."""


class Unreadable(Exception):
    """vLLM refuses this body before any work, in words of its own."""


@dataclass(frozen=True, slots=True)
class RequestFields:
    """What vLLM reads in a body. The defaults are those of a body that says nothing."""

    model: str | None = None
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    num_prompts: int = 1
    num_per_prompt: int = 1
    messages: Sequence[Any] | None = None
    """The conversation as vLLM renders it; None on an endpoint whose prompts are none."""
    roles: tuple[str, ...] = ()
    """Who speaks in each message."""
    prompts: Sequence[Any] = ()
    """Texts and token ids of an endpoint without conversations."""
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    echo: bool = False
    num_logprobs: int | None = None
    """Of tokens that are sampled; None when none are asked for, 0 for the chosen token's own."""
    num_prompt_logprobs: int | None = None
    """As above, of the prompt; `echo` asks for them too, on each endpoint in its own way."""
    prompt_embeds: bool = False
    chat_template: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """`chat_template_kwargs` without those that vLLM takes for unset."""
    truncated: bool = False
    """The prompt may be cut to a length."""
    constrained: bool = False
    """The client, and not the model, may choose tokens of the answer."""
    may_call: bool = False
    """The model may call tools; some servers make a grammar of these."""
    use_beam_search: bool = False
    kv_transfer_params: bool = False
    ec_transfer_params: bool = False
    xargs: Mapping[str, Any] = field(default_factory=dict)
    """`vllm_xargs`."""
    vllm: Any = None
    """vLLM's own request, for what is read of it elsewhere."""


def validated(body: Body, model: type[Model]) -> Model:
    """Return vLLM's request of a body.

    Raises:
        Unreadable: vLLM itself refuses it.
        RequestError: a validator of vLLM's tripped over a value of a kind that it did not expect.
    """
    try:
        return model.model_validate(body)
    except VLLM_EXPLAINS as error:
        raise Unreadable from error
    except Exception as error:
        raise unexplained(error) from error


def unexplained(error: Exception) -> RequestError:
    """Return the refusal of a body that vLLM could not even say what is wrong with."""
    return RequestError(
        f"body: cannot be read ({type(error).__name__}: {str(error)[:80]}); a field has a "
        "value of the wrong kind"
    )


def drop_empty(body: Body) -> None:
    """Take fields that are there and say nothing for absent, in place."""
    for name in EMPTY_MEANS_NONE:
        if name in body and not body[name] and isinstance(body[name], str | list):
            body[name] = None


def write_back(body: Body, asked: BaseModel) -> None:
    """Send texts, numbers and switches on as they were read; lists and objects as they came.

    The latter are read again by the same rules, and give the same.
    """
    read = asked.__dict__
    for name in body.keys() & read.keys():
        value = read[name]
        if value is None or isinstance(value, bool | int | float | str):
            body[name] = value


def set_template_kwargs(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `chat_template_kwargs` without those that vLLM takes for unset."""
    return {name: value for name, value in (kwargs or {}).items() if value not in (None, "auto")}


def chooses_tokens(
    read: Mapping[str, Any], *, has_literal_shape: bool, has_strict_tool: bool
) -> bool:
    """Say whether the client, and not the model, may choose tokens of the answer.

    Args:
        read: the fields of vLLM's request by name; one that an endpoint does not have is absent.
        has_literal_shape: the shape asked for is a schema or a tag.
        has_strict_tool: vLLM makes a grammar of a tool that the model may call.
    """
    tool = read.get("tool_choice")
    biases = (read.get("logit_bias") or {}).values()
    return bool(
        read.get("structured_outputs") is not None
        or has_literal_shape
        or (tool is not None and tool not in ("none", "auto"))
        or (tool == "auto" and (has_strict_tool or read.get("parallel_tool_calls") is False))
        or read.get("allowed_token_ids")
        or any(bias > 0 for bias in biases)
        or len(biases) + len(read.get("bad_words") or ()) > MAX_BANS
    )


def is_constrained(fields: RequestFields, *, pins_tools: bool = False) -> bool:
    """Say whether the client may choose tokens of the answer on this server.

    Args:
        fields: what vLLM reads in the body.
        pins_tools: the server has vLLM make a grammar of all tools that a request names.
    """
    return fields.constrained or (pins_tools and fields.may_call)


def leans_on_tokens(fields: RequestFields) -> bool:
    """Say whether the client says anything at all of which tokens may be chosen."""
    read = fields.vllm.__dict__
    return bool(fields.constrained or read.get("logit_bias") or read.get("bad_words"))


FIELD = "pilothouse"

Named = Annotated[str, Field(min_length=1, max_length=64)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RequestField(_Closed):
    """What a client may ask of Pilothouse in the body of a request."""

    steer: tuple[SteerTerm, ...] = ()
    probes: tuple[Named, ...] = ()
    scores: ScoreDetail | None = None


_GRANT_STEERING = (
    "this server does not let clients steer; pick a profile as the model name, or ask the operator "
    "for auth.client_steering"
)
_GRANT_SCORES = (
    "this server does not show scores to clients; ask the operator for auth.client_scores"
)


def parse_field(raw: Any, caller: Caller, limits: RequestLimits) -> RequestField:
    """The field of a body; an empty one if there is none.

    What needs a grant is refused for who has none before it is looked into.

    Raises:
        RequestError: not an object, an unknown key, no grant (403), more than `limits` allow, or a
            value of another kind.
    """
    if raw is None:
        return RequestField()
    if not isinstance(raw, dict):
        raise RequestError(
            f"{FIELD}: got {type(raw).__name__}, want an object with any of steer, probes, scores",
            param=FIELD,
        )
    _refuse_ungranted(raw, caller)
    _refuse_many(raw, limits)
    try:
        return RequestField.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join([FIELD, *(str(part) for part in first["loc"])])
        raise RequestError(f"{place}: {_complaint(first)}", param=place) from error


def _refuse_ungranted(raw: Mapping[str, Any], caller: Caller) -> None:
    shows = (raw.get("scores") not in (None, "none"), "scores"), (bool(raw.get("probes")), "probes")
    if raw.get("steer") and not caller.may_steer:
        raise RequestError(f"{FIELD}.steer: {_GRANT_STEERING}", param="steer", status=403)
    for asked, name in shows:
        if asked and not caller.may_see_scores:
            raise RequestError(f"{FIELD}.{name}: {_GRANT_SCORES}", param=name, status=403)


def _refuse_many(raw: Mapping[str, Any], limits: RequestLimits) -> None:
    steer = raw.get("steer")
    terms = steer if isinstance(steer, list | tuple) else ()
    refuse_count(f"{FIELD}.steer", len(terms), "max_terms", limits, f"{FIELD}.steer")
    probes = raw.get("probes")
    num_probes = len(probes) if isinstance(probes, list | tuple) else 0
    refuse_count(f"{FIELD}.probes", num_probes, "max_probes", limits, f"{FIELD}.probes")
    unknown = raw.keys() - RequestField.model_fields.keys()
    if unknown:
        name = ascii(min(unknown))[1:-1][:60]
        raise RequestError(
            f"{FIELD}.{name}: unknown field; want any of {', '.join(RequestField.model_fields)}",
            param=f"{FIELD}.{name}",
        )


def _complaint(problem: Any) -> str:
    got = repr(problem["input"])
    shown = got if len(got) <= 60 else f"{got[:60]}..."
    if problem["type"] == "extra_forbidden":
        return "unknown field; want any of " + (
            ", ".join(SteerTerm.model_fields)
            if len(problem["loc"]) > 1
            else "steer, probes, scores"
        )
    if problem["type"] == "missing":
        return "missing, and needed"
    return f"got {shown}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
