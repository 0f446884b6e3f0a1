"""Fields of a request that are refused, and why.

Always refused: what belongs to the signed hop, what the scheduler cannot see through, and a request
id that cannot stand in a log. vLLM writes that id into its log and its answers as it is; it comes
as `request_id` of a body or as the header `x-request-id`, which vLLM prefers, and one that ends a
line, moves a terminal's cursor or fills a disk is refused here.

Refused while some policy is enforced: what feeds the model other than as the operator's template
does, and what shows the model's opinion of text that no rule has cleared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import Scope

from pilothouse.errors import RequestError
from pilothouse.server.request_schema import RequestFields, leans_on_tokens

RESERVED_PREFIX: Final = "pilothouse"
TEMPLATE_KEYS: Final = frozenset(
    {
        "chat_template",
        "tokenize",
        "add_generation_prompt",
        "continue_final_message",
        "messages",
        "conversation",
        "tools",
        "documents",
    }
)
"""Keys of `chat_template_kwargs` that stand for a field of the body or for the template itself."""
TRANSFER_KEYS: Final = ("kv_transfer_params", "ec_transfer_params")
"""Keys of `vllm_xargs` that vLLM reads as the fields of that name."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Which kinds of enforced rules can reach a request."""

    enforced: bool = False
    """Any policy is in mode enforce."""
    ends_output: bool = False
    """An enforced output or final rule can end an answer."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    param: str
    offends: Callable[[RequestFields], bool]
    reason: str


def _asks_prompt_logprobs(fields: RequestFields) -> bool:
    """Zero asks too: it means the chosen token's own logprob."""
    return fields.num_prompt_logprobs is not None


def _asks_alternatives(fields: RequestFields) -> bool:
    """Likely tokens beside one that the client kept from being chosen, or chosen itself."""
    return bool(fields.num_logprobs) and fields.vllm is not None and leans_on_tokens(fields)


def _asks_of_tokens(fields: RequestFields) -> bool:
    return fields.vllm is not None and bool(fields.vllm.__dict__.get("logprob_token_ids"))


def _prefills(fields: RequestFields) -> bool:
    return fields.continue_final_message or (
        not fields.add_generation_prompt and _last_role(fields) == "assistant"
    )


def _last_role(fields: RequestFields) -> str | None:
    return fields.roles[-1] if fields.roles else None


ALWAYS: Final = (
    _Refusal(
        "kv_transfer_params",
        lambda fields: fields.kv_transfer_params,
        "KV transfer is for vLLM's own servers, not for clients; leave it out",
    ),
    _Refusal(
        "ec_transfer_params",
        lambda fields: fields.ec_transfer_params,
        "encoder transfer is for vLLM's own servers, not for clients; leave it out",
    ),
    _Refusal(
        "use_beam_search",
        lambda fields: fields.use_beam_search,
        "beam search runs outside the policies; use sampling with n",
    ),
    _Refusal(
        "prompt",
        lambda fields: fields.num_prompts == 0,
        "got an empty list, want at least one prompt",
    ),
)
WHILE_ENFORCED: Final = (
    _Refusal(
        "prompt_embeds",
        lambda fields: fields.prompt_embeds,
        "embeddings are not accepted while a policy is enforced; send text",
    ),
    _Refusal(
        "chat_template",
        lambda fields: fields.chat_template,
        "the server's own template is used while a policy is enforced; leave it out",
    ),
    _Refusal(
        "chat_template_kwargs",
        lambda fields: not TEMPLATE_KEYS.isdisjoint(fields.template_kwargs),
        f"while a policy is enforced it may not carry any of {sorted(TEMPLATE_KEYS)}",
    ),
)
WHILE_OUTPUT_IS_GUARDED: Final = (
    _Refusal(
        "echo",
        lambda fields: fields.echo and _asks_prompt_logprobs(fields),
        "it brings logprobs of the prompt (on chat always), which would show what the model "
        "says next at places where no rule looks; leave one of them out",
    ),
    _Refusal(
        "prompt_logprobs",
        _asks_prompt_logprobs,
        "it would show what the model says next at places where no rule looks; leave it out",
    ),
    _Refusal(
        "logprob_token_ids",
        _asks_of_tokens,
        "it would show how likely tokens are that no rule has scored; leave it out",
    ),
    _Refusal(
        "logprobs",
        _asks_alternatives,
        "with a constraint, a bias or bad words it would show what the model says in place of "
        "what it was let say; ask for none, or for the chosen token's alone (0)",
    ),
    _Refusal(
        "continue_final_message",
        _prefills,
        "assistant text to be continued would count as output that no rule has scored; end "
        "with a user message",
    ),
)


def refuse_bypass(fields: RequestFields, guard: Guard) -> None:
    """Check what vLLM reads in a body against all of the above.

    Raises:
        RequestError: a field that is not allowed; `param` names it.
    """
    _refuse_xargs(fields.xargs)
    checks = [*ALWAYS]
    if guard.enforced:
        checks += WHILE_ENFORCED
    if guard.ends_output:
        checks += WHILE_OUTPUT_IS_GUARDED
    for check in checks:
        if check.offends(fields):
            raise RequestError(f"{check.param}: {check.reason}", param=check.param)


def _refuse_xargs(xargs: Mapping[str, Any]) -> None:
    for name, value in xargs.items():
        if name.lower().startswith(RESERVED_PREFIX):
            raise RequestError(
                f"vllm_xargs.{name}: names that begin with {RESERVED_PREFIX!r} are reserved",
                param=f"vllm_xargs.{name}",
            )
        if name in TRANSFER_KEYS and value:
            raise RequestError(
                f"vllm_xargs.{name}: it is for vLLM's own servers, not for clients; leave it out",
                param=f"vllm_xargs.{name}",
            )


HEADER: Final = "x-request-id"
FIELD: Final = "request_id"
MOST_CHARACTERS: Final = 256


def refuse_request_id_header(scope: Scope) -> None:
    """Check the header of a request to any route.

    Raises:
        RequestError: it cannot stand in a log.
    """
    for value in Headers(scope=scope).getlist(HEADER):
        _refuse(value, HEADER)


def refuse_request_id_field(body: Mapping[str, Any]) -> None:
    """Check the field of a body; what is no text is vLLM's to refuse.

    Raises:
        RequestError: it cannot stand in a log.
    """
    value = body.get(FIELD)
    if isinstance(value, str):
        _refuse(value, FIELD)


def _refuse(value: str, place: str) -> None:
    if len(value) > MOST_CHARACTERS:
        raise RequestError(
            f"{place}: got {len(value)} characters, want at most {MOST_CHARACTERS}", param=place
        )
    wrong = next((each for each in value if not each.isprintable()), None)
    if wrong is not None:
        raise RequestError(
            f"{place}: got the character {wrong!a}, want printable ones: the id is written "
            "into logs and answers",
            param=place,
        )
