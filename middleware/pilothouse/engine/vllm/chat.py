"""The tokenizer and chat template that vLLM's arguments name, without an engine."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from types import SimpleNamespace

from pilothouse.engine.plan.turn_markers import Message, Render, TurnMarkers, find_markers
from pilothouse.engine.scheduler.authorship import with_refused
from pilothouse.engine.vllm.protocols import Tokenizer
from pilothouse.engine.vllm.version import of_this_version
from pilothouse.telemetry.logs import errors_alone

OWN_TEMPLATE_MODES = ("mistral", "deepseek_v32", "deepseek_v4", "deepseek_v41", "kimi_audio")
"""Tokenizers that render conversations themselves; all others do it by a Jinja template."""


def turn_markers(args: Namespace, messages: Sequence[str] = ()) -> TurnMarkers:
    """Find what opens turns for the model that vLLM's arguments name, or the reason why none is.

    Args:
        args: vLLM's arguments.
        messages: what policies say in place of an answer (`engine.scheduler.authorship`).
    """
    if getattr(args, "skip_tokenizer_init", False):
        return TurnMarkers(missing="--skip-tokenizer-init leaves no tokenizer to look at")
    try:
        tokenizer, mode = _tokenizer(args)
        special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        render = _renderer(args, tokenizer, mode)
        # It warns of each conversation that a template refuses; here some are only tried.
        with errors_alone("vllm.renderers.hf"):
            found = find_markers(render, blank=_blank(tokenizer, special), own_tokens=special)
            return with_refused(found, render, messages)
    except Exception as error:  # whatever a repository's own code and files raise
        return TurnMarkers(missing=f"the tokenizer cannot be read: {_first_line(error)}")


def _tokenizer(args: Namespace) -> tuple[Tokenizer, str]:
    from vllm.tokenizers import get_tokenizer
    from vllm.tokenizers.registry import resolve_tokenizer_args

    name = getattr(args, "tokenizer", None) or args.model
    settings = {
        "tokenizer_mode": getattr(args, "tokenizer_mode", None) or "auto",
        "revision": getattr(args, "tokenizer_revision", None) or getattr(args, "revision", None),
    }
    mode, *_ = resolve_tokenizer_args(name, **settings)
    trusted = bool(getattr(args, "trust_remote_code", False))
    return get_tokenizer(name, trust_remote_code=trusted, **settings), mode


def _renderer(args: Namespace, tokenizer: Tokenizer, mode: str) -> Render:
    from vllm.renderers.hf import resolve_chat_template_content_format, safe_apply_chat_template

    kwargs = dict(getattr(args, "default_chat_template_kwargs", None) or {})
    if mode in OWN_TEMPLATE_MODES:
        return lambda messages, generate: tokenizer.apply_chat_template(
            [dict(each) for each in messages], add_generation_prompt=generate, **kwargs
        )
    model_config: object = _ModelConfig(args)
    template = of_this_version().load_chat_template(getattr(args, "chat_template", None))
    given = getattr(args, "chat_template_content_format", None) or "auto"
    in_parts = (
        resolve_chat_template_content_format(
            template, None, given, tokenizer, model_config=model_config
        )
        == "openai"
    )

    def render(messages: Sequence[Message], generate: bool) -> list[int]:
        # As vLLM does it: text first, then its tokens without any that the template did not write.
        conversation: list[object] = [
            _in_parts(each) if in_parts else dict(each) for each in messages
        ]
        text = safe_apply_chat_template(
            model_config,
            tokenizer,
            conversation,
            tools=None,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=generate,
            **kwargs,
        )
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    return render


def _in_parts(message: Message) -> dict[str, object]:
    """Return a message for a template that goes through the parts of a content."""
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


class _ModelConfig(SimpleNamespace):
    """As much of vLLM's as choosing a template asks for."""

    def __init__(self, args: Namespace) -> None:
        super().__init__(
            model=args.model,
            tokenizer=getattr(args, "tokenizer", None) or args.model,
            revision=getattr(args, "revision", None),
            tokenizer_revision=getattr(args, "tokenizer_revision", None),
            code_revision=getattr(args, "code_revision", None),
            trust_remote_code=bool(getattr(args, "trust_remote_code", False)),
        )
        self._args = args

    @property
    def hf_config(self) -> object:
        """Read only where the tokenizer has no template."""
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(
            getattr(self._args, "hf_config_path", None) or self.model,
            revision=getattr(self._args, "revision", None),
            trust_remote_code=self.trust_remote_code,
        )


def _blank(tokenizer: Tokenizer, special: set[int]) -> Callable[[int], bool]:
    return lambda token_id: token_id not in special and not tokenizer.decode([token_id]).strip()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
