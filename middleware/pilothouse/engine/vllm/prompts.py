"""A model's tokenizer and chat template, as vLLM's endpoints use them; no weights are read."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMClientError
from vllm.renderers import renderer_from_config
from vllm.renderers.hf import HfRenderer, resolve_chat_template, resolve_chat_template_kwargs
from vllm.renderers.params import ChatParams
from vllm.tokenizers.mistral import MistralTokenizer

from pilothouse.engine.vllm.protocols import Tokenizer
from pilothouse.engine.vllm.version import of_this_version
from pilothouse.errors import ConfigError


class PromptRenderer:
    """Texts and conversations as the token ids that the served model is given.

    Args:
        model: as for vLLM.
        settings: arguments of vLLM's `LLM`.
        template_kwargs: variables of the chat template.

    Raises:
        ConfigError: the model's configuration or tokenizer cannot be read, or its template has no
            variable of such a name.
    """

    def __init__(
        self, model: str, settings: Mapping[str, object], template_kwargs: Mapping[str, object]
    ) -> None:
        try:
            args = EngineArgs(model=model, **settings)
            config = VllmConfig(model_config=args.create_model_config())
            self._renderer: Any = renderer_from_config(config)
        except (ValueError, OSError, VLLMClientError) as error:
            raise ConfigError(
                f"{model}: configuration or tokenizer cannot be read: {error}"
            ) from error
        self.tokenizer: Tokenizer = self._renderer.get_tokenizer()
        self.max_tokens = int(config.model_config.max_model_len)
        self._kwargs = dict(template_kwargs)
        check_template_kwargs(self._renderer, template_kwargs, own=True)

    def chat(self, messages: Sequence[Mapping[str, object]]) -> tuple[int, ...]:
        """Return token ids of a conversation in the model's chat template, up to where it answers.

        Raises:
            ConfigError: there is no template, or it refuses the conversation; in its own words.
        """
        params = ChatParams(
            chat_template_kwargs=self._kwargs
            | {
                "add_generation_prompt": True,
                "continue_final_message": False,
                "tools": None,
                "tokenize": isinstance(self.tokenizer, MistralTokenizer),
            }
        )
        tokens = self._renderer.default_chat_tok_params.with_kwargs(add_special_tokens=False)
        try:
            _, [rendered] = self._renderer.render_chat([list(messages)], params, tokens)
        except (ValueError, TypeError, VLLMClientError) as error:
            raise ConfigError(_reason(error)) from error
        return tuple(rendered["prompt_token_ids"])

    def begins_twice(self, text: str) -> bool:
        """Tell whether a text begins with the token that the tokenizer puts in front anyway."""
        return begins_twice(self.tokenizer, text)


def begins_twice(tokenizer: Tokenizer, text: str) -> bool:
    """Tell whether a text begins with the BOS token that its tokenizer puts in front anyway."""
    bos = getattr(tokenizer, "bos_token", None)
    if not bos or not text.lstrip().startswith(bos):
        return False
    bos_id = tokenizer.bos_token_id
    return list(tokenizer.encode(text))[:2] == [bos_id, bos_id]


def check_template_kwargs(
    renderer: object,
    kwargs: Mapping[str, object],
    *,
    template: str | None = None,
    own: bool = False,
) -> None:
    """Refuse variables that the chat template does not read, which vLLM drops in silence.

    Args:
        kwargs: variables of the chat template.
        renderer: vLLM's, of the model.
        template: in place of the model's own.
        own: whether names that have an argument of their own are refused too.

    Raises:
        ConfigError: names them, and what the template reads.
    """
    if not kwargs or not isinstance(renderer, HfRenderer):
        return
    tokenizer: Tokenizer = renderer.get_tokenizer()
    found = resolve_chat_template(
        tokenizer, chat_template=template, tools=None, model_config=renderer.model_config
    )
    if found is None:
        raise ConfigError(
            f"chat_template_kwargs: got {sorted(kwargs)}, and the model has no chat template"
        )
    read = resolve_chat_template_kwargs(
        tokenizer=tokenizer,
        chat_template=found,
        chat_template_kwargs=dict(kwargs),
        raise_on_unexpected=False,
    )
    base = inspect.signature(PreTrainedTokenizerBase.apply_chat_template)
    fixed = set(base.parameters) if own else set()
    unread = sorted(name for name in kwargs if name not in read or name in fixed)
    if unread:
        raise ConfigError(
            f"chat_template_kwargs: got {unread}, which the model's chat template does not read; "
            "look in its chat_template.jinja or tokenizer_config.json for the names it does"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, of_this_version().no_chat_template()):
        return "the model has no chat template: give `prompt` texts in place of `messages`"
    return f"the model's chat template refuses it: {error}"
