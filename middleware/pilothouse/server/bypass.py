"""Body fields that would pass the guard by, and what is done about each.

Always refused: what belongs to the sealed hop, and what the scheduler cannot see through.
Refused while some policy is enforced: what feeds the model other than as the operator's template
does, and what shows the model's opinion of text that no rule has cleared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pilothouse.errors import RequestError

RESERVED_PREFIX: Final = "pilothouse"
MAX_CHOICES: Final = 128
TEMPLATE_KEYS: Final = frozenset(
    {"chat_template", "tokenize", "add_generation_prompt", "continue_final_message", "messages",
     "conversation", "tools", "documents"}
)  # fmt: skip
"""Keys of `chat_template_kwargs` that stand for a field of the body or for the template itself."""

Body = Mapping[str, Any]


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
    offends: Callable[[Body], bool]
    reason: str


def _asked(body: Body, name: str) -> bool:
    """Zero asks too: it means the chosen token's own logprob."""
    value = body.get(name)
    return value is not None and value is not False


def _given(name: str) -> Callable[[Body], bool]:
    return lambda body: _asked(body, name)


def _template_key(body: Body) -> bool:
    kwargs = body.get("chat_template_kwargs")
    return isinstance(kwargs, dict) and not TEMPLATE_KEYS.isdisjoint(kwargs)


def _echoes_logprobs(body: Body) -> bool:
    return bool(body.get("echo")) and _asked(body, "logprobs")


def _echoes_assistant(body: Body) -> bool:
    return bool(body.get("echo")) and _last_role(body) == "assistant"


def _prefills(body: Body) -> bool:
    open_ended = body.get("add_generation_prompt", True) is not True
    return bool(body.get("continue_final_message")) or (
        open_ended and _last_role(body) == "assistant"
    )


def _last_role(body: Body) -> Any:
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return last.get("role") if isinstance(last, dict) else None


ALWAYS: Final = (
    _Refusal("kv_transfer_params", _given("kv_transfer_params"),
             "KV transfer is for vLLM's own servers, not for clients; leave it out"),
    _Refusal("ec_transfer_params", _given("ec_transfer_params"),
             "encoder transfer is for vLLM's own servers, not for clients; leave it out"),
    _Refusal("use_beam_search", _given("use_beam_search"),
             "beam search runs outside the policies; use sampling with n"),
)  # fmt: skip
WHILE_ENFORCED: Final = (
    _Refusal("prompt_embeds", _given("prompt_embeds"),
             "embeddings are not accepted while a policy is enforced; send text"),
    _Refusal("chat_template", _given("chat_template"),
             "the server's own template is used while a policy is enforced; leave it out"),
    _Refusal("chat_template_kwargs", _template_key,
             f"while a policy is enforced it may not carry any of {sorted(TEMPLATE_KEYS)}"),
)  # fmt: skip
WHILE_OUTPUT_IS_GUARDED: Final = (
    _Refusal("prompt_logprobs", _given("prompt_logprobs"),
             "it would show what the model says next at places where no rule looks; leave it out"),
    _Refusal("logprobs", _echoes_logprobs,
             "with echo it would show the model's opinion of the prompt; leave one of them out"),
    _Refusal("continue_final_message", _prefills,
             "assistant text to be continued would count as output that no rule has scored; end "
             "with a user message"),
    _Refusal("echo", _echoes_assistant,
             "assistant text to be repeated would count as output that no rule has scored"),
)  # fmt: skip


def refuse_bypass(body: Body, guard: Guard) -> None:
    """Check a body against all of the above.

    Raises:
        RequestError: a field that is not allowed; `param` names it.
    """
    _refuse_reserved(body)
    checks = [*ALWAYS]
    if guard.enforced:
        checks += WHILE_ENFORCED
    if guard.ends_output:
        checks += WHILE_OUTPUT_IS_GUARDED
    for check in checks:
        if check.offends(body):
            raise RequestError(f"{check.param}: {check.reason}", param=check.param)


def refuse_crowd(num_prompts: int, num_per_prompt: int) -> None:
    """Bound the number of choices one request may ask for.

    Raises:
        RequestError: too many.
    """
    if num_prompts * num_per_prompt > MAX_CHOICES:
        raise RequestError(
            f"n: got {num_prompts} prompts with {num_per_prompt} choices each, want at most "
            f"{MAX_CHOICES} choices in one request",
            param="n",
        )


def _refuse_reserved(body: Body) -> None:
    extra = body.get("vllm_xargs")
    if extra is not None and not isinstance(extra, dict):
        raise RequestError(
            f"vllm_xargs: got {type(extra).__name__}, want an object", param="vllm_xargs"
        )
    for key in extra or ():
        if key.lower().startswith(RESERVED_PREFIX):
            raise RequestError(
                f"vllm_xargs.{key}: names that begin with {RESERVED_PREFIX!r} are reserved",
                param=f"vllm_xargs.{key}",
            )
