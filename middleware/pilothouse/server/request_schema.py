"""What vLLM reads in a body: its own request models, run once at the gate.

Every decision of the gate is made on these values and never on the JSON, where a number may be a
text and `false` a number of logprobs. The values that were read are written back into the body, so
that what vLLM reads afterwards is what was decided on.

Two things differ from vLLM's own reading, both on purpose: a refusal that a client sends back is
rendered as text (`history`), and an empty `chat_template` or `prompt_embeds` means none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.exceptions import VLLMError
from vllm.renderers.inputs.preprocess import prompt_to_seq

from pilothouse.errors import RequestError
from pilothouse.policy.endpoint import Endpoint
from pilothouse.server.history import say_refusals

Body = dict[str, Any]

MODELS: Final[Mapping[Endpoint, type[BaseModel]]] = {
    "chat": ChatCompletionRequest,
    "completions": CompletionRequest,
}
EMPTY_MEANS_NONE: Final = ("chat_template", "prompt_embeds")
"""Fields of text that say nothing when they are empty, and that vLLM refuses then."""
_VLLM_EXPLAINS: Final = (
    ValidationError, VLLMError, ValueError, TypeError, OverflowError, NotImplementedError,
)  # fmt: skip
"""What vLLM answers with a 4xx of its own; anything else would be a 500."""


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
    roles: tuple[str, ...] = ()
    """Who speaks in each message of a chat."""
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
    use_beam_search: bool = False
    kv_transfer_params: bool = False
    ec_transfer_params: bool = False
    xargs: Mapping[str, Any] = field(default_factory=dict)
    """`vllm_xargs`."""
    vllm: Any = None
    """vLLM's own request, for what is read of it elsewhere."""


def read_fields(body: Body, endpoint: Endpoint) -> RequestFields:
    """Read a body as vLLM will, and write what was read back into it.

    Args:
        body: a JSON object without our own field; changed in place.

    Raises:
        Unreadable: vLLM itself refuses it, and says why better than we could.
        RequestError: vLLM could not even say why.
    """
    say_refusals(body)
    for name in EMPTY_MEANS_NONE:
        if name in body and not body[name] and isinstance(body[name], str | list):
            body[name] = None
    asked = _validated(body, MODELS[endpoint])
    _write_back(body, asked)
    return _chat(asked) if endpoint == "chat" else _completions(asked)


def _validated(body: Body, model: type[BaseModel]) -> BaseModel:
    try:
        return model.model_validate(body)
    except _VLLM_EXPLAINS as error:
        raise Unreadable from error
    except Exception as error:
        # A validator of vLLM's tripped over a value of a kind that it did not expect.
        raise RequestError(
            f"body: cannot be read ({type(error).__name__}: {str(error)[:80]}); a field has a "
            "value of the wrong kind"
        ) from error


def _write_back(body: Body, asked: BaseModel) -> None:
    """Texts, numbers and switches go on as they were read; lists and objects as they came.

    The latter are read again by the same rules, and give the same.
    """
    read = asked.__dict__
    for name in body.keys() & read.keys():
        value = read[name]
        if value is None or isinstance(value, bool | int | float | str):
            body[name] = value


def _chat(asked: BaseModel) -> RequestFields:
    read = asked.__dict__
    kwargs = read["chat_template_kwargs"] or {}
    return RequestFields(
        **_both(read),
        roles=tuple(_role(each) for each in read["messages"]),
        add_generation_prompt=read["add_generation_prompt"],
        continue_final_message=read["continue_final_message"],
        num_logprobs=read["top_logprobs"] if read["logprobs"] else None,
        num_prompt_logprobs=_prompt_logprobs(read, echoed=read["top_logprobs"]),
        chat_template=bool(read["chat_template"]),
        template_kwargs={
            name: value for name, value in kwargs.items() if value not in (None, "auto")
        },
        vllm=asked,
    )


def _completions(asked: BaseModel) -> RequestFields:
    read = asked.__dict__
    return RequestFields(
        **_both(read),
        num_prompts=_num_prompts(read["prompt"]) + _num_prompts(read["prompt_embeds"]),
        num_logprobs=read["logprobs"],
        num_prompt_logprobs=_prompt_logprobs(read, echoed=read["logprobs"]),
        prompt_embeds=bool(read["prompt_embeds"]),
        vllm=asked,
    )


def _both(read: Mapping[str, Any]) -> dict[str, Any]:
    """What chat and completions read alike."""
    options = read["stream_options"]
    usage = options is not None and bool(options.include_usage)
    n = read["n"]
    return {
        "model": read["model"],
        "stream": bool(read["stream"]),
        "include_usage": usage,
        "continuous_usage": usage and bool(options.continuous_usage_stats),
        "num_per_prompt": n if n is not None and n > 0 else 1,
        "echo": bool(read["echo"]),
        "use_beam_search": read["use_beam_search"],
        "kv_transfer_params": bool(read["kv_transfer_params"]),
        "ec_transfer_params": bool(read["ec_transfer_params"]),
        "xargs": read["vllm_xargs"] or {},
    }


def _prompt_logprobs(read: Mapping[str, Any], *, echoed: int | None) -> int | None:
    asked: int | None = read["prompt_logprobs"]
    return echoed if asked is None and read["echo"] else asked


def _num_prompts(prompt: Sequence[Any] | None) -> int:
    return 0 if prompt is None else len(prompt_to_seq(prompt))


def _role(message: Any) -> str:
    """Messages are objects of JSON, or of vLLM's for what it reads as gpt-oss's own format."""
    if isinstance(message, Mapping):
        return str(message["role"])
    return str(getattr(message.author.role, "value", message.author.role))
