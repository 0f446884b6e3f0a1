"""`limits:` of pilothouse.yaml: what one request may cost, and what the server holds for all.

Work is counted before it is done. Each bound of `RequestLimits` is checked by the server; a request
above one is answered with a 400 (a body that is too long with a 413) that names it, and nothing of
it has been parsed, compiled or tokenised by then that another bound does not cover.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from pilothouse.errors import RequestError

BYTES_PER_TOKEN = 16
"""Bytes of text for a token: more than any tokenizer needs for ordinary text, escaped as JSON."""
BYTES_PER_ID = 8
SMALLEST_TEXT_KIB = 32
SMALLEST_TOKEN_IDS = 8192
SMALLEST_CHOICE_TOKEN_IDS = 16_384
BATCHED_CONTEXTS = 16
BATCHED_TOKEN_IDS = 1 << 18
"""Prompts come in lists, from evaluation harnesses above all: 64 of 2048 tokens and more."""
MULTIMODAL_BODY_KIB = 16 * 1024
"""Images come in the body."""
MOST_CHOICES = 128


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RequestLimits(_Closed):
    """Bounds on one request. None: made of what vLLM serves, see `RequestLimits.served`."""

    max_body_kib: int | None = Field(default=None, ge=1)
    """Of any request's body; by default 8 bytes for each of `max_token_ids`, for a multimodal model
    at least 16 MiB."""
    max_text_kib: int | None = Field(default=None, ge=1)
    """Of all texts together, and of each prompt in a list; by default 16 bytes a token of the
    context, at least 32 KiB, for a multimodal model the whole body."""
    max_json_depth: int = Field(default=64, ge=4)
    """Lists and objects inside each other."""
    max_json_values: int = Field(default=8192, ge=64)
    """Values of any kind in the body, without numbers in lists of numbers."""
    max_entries: int = Field(default=1024, ge=16)
    """In one list or object of the body that has no bound of its own."""
    max_token_ids: int | None = Field(default=None, ge=1)
    """Numbers in lists of numbers, all together; by default 16 contexts, at least 8192 and at most
    262144, or two contexts where that is more."""
    max_messages: int | None = Field(default=None, ge=1)
    """By default one for 64 tokens of the context, between 256 and 1024."""
    max_check_texts: int = Field(default=64, ge=1)
    """Texts and conversations of one check, each of which the engine reads as a prompt."""
    max_content_parts: int = Field(default=1024, ge=1)
    """Of all messages together."""
    max_items: int = Field(default=256, ge=1)
    """Of `input` of a response, and parts of theirs: each is compared with some fifty kinds."""
    max_tools: int = Field(default=128, ge=0)
    max_stop_strings: int = Field(default=16, ge=0)
    """Each is looked for in every token of every choice."""
    max_bad_words: int = Field(default=32, ge=0)
    """Each is looked for at every token of every choice."""
    max_logit_bias: int = Field(default=1024, ge=0)
    max_choice_token_ids: int | None = Field(default=None, ge=1)
    """Under `logit_bias`, `allowed_token_ids` and `stop_token_ids`, times the choices, each of
    which the engine gets its own of; by default `max_token_ids`, at least 16384."""
    max_choice_logprobs: int = Field(default=128, ge=1)
    """`logprobs` of a token of the answer, times the choices: vLLM makes the objects of a whole
    answer at once, in its event loop."""
    max_vllm_xargs: int = Field(default=64, ge=0)
    max_template_kwargs: int = Field(default=64, ge=0)
    max_schema_kib: int = Field(default=48, ge=1)
    """What the answer must follow as a whole: JSON schemas, tools that are forced."""
    max_guide_kib: int = Field(default=16, ge=1)
    """One regex, grammar or list of choices in it."""
    max_guide_repeats: int = Field(default=64, ge=0)
    """Of its regexes and grammars: `*`, `+`, `?` and `{m,n}`, all together."""
    max_guide_states: int = Field(default=256, ge=1)
    """What counted repetitions add when they are written out: `(ab{3}){5}` adds 18."""
    max_guide_depth: int = Field(default=16, ge=1)
    """Groups of a regex inside each other."""
    max_guide_properties: int = Field(default=256, ge=1)
    """Of one object in a JSON schema."""
    max_guide_lengths: int = Field(default=16, ge=1)
    """Different values of `minLength` and `maxLength` in JSON schemas: each is an automaton."""
    max_choices: int | None = Field(default=None, ge=1)
    """Prompts times `n`; by default all but one of --max-num-seqs, and at most 128."""
    max_prompt_logprobs: int = Field(default=8192, ge=0)
    """`prompt_logprobs`, or `logprobs` with `echo`, where that is above 1: times the bytes of the
    body, which are more than the tokens of its prompts."""
    max_probes: int = Field(default=64, ge=0)
    """Names under `pilothouse.probes`."""
    max_terms: int = Field(default=64, ge=1)
    """Under `pilothouse.steer`, the profile's counted too."""
    max_positions: int = Field(default=128, ge=1)
    """Under `indices` and `after` of all terms together."""
    max_request_programs: int = Field(default=16, ge=1)
    """Different sets of terms that can hold together somewhere, whatever the prompt; never more
    than `max_programs`. A term with `after` doubles them."""
    max_segments: int = Field(default=4096, ge=1)
    """Stretches that `after` cuts a prompt into; counted when its tokens are known."""
    max_edit_values: int = Field(default=2_097_152, ge=1)
    """Numbers that compiling touches: programs times the sizes of the vectors that each is of."""

    def served(self, engine: EngineSize | None = None) -> ServedLimits:
        """The bounds as numbers, for what vLLM serves; by default for nothing in particular."""
        size = engine or EngineSize()
        own = {name: getattr(self, name) for name in RequestLimits.model_fields}
        context = size.max_model_len
        batch = min(BATCHED_CONTEXTS * context, BATCHED_TOKEN_IDS)
        num_ids = own["max_token_ids"] or max(SMALLEST_TOKEN_IDS, batch, 2 * context)
        body_kib = own["max_body_kib"] or max(
            SMALLEST_TEXT_KIB,
            num_ids * BYTES_PER_ID // 1024,
            MULTIMODAL_BODY_KIB if size.multimodal else 0,
        )
        text_kib = max(SMALLEST_TEXT_KIB, context * BYTES_PER_TOKEN // 1024)
        derived = {
            "max_body_kib": body_kib,
            "max_text_kib": body_kib if size.multimodal else min(body_kib, text_kib),
            "max_token_ids": num_ids,
            "max_choice_token_ids": max(SMALLEST_CHOICE_TOKEN_IDS, num_ids),
            "max_messages": max(256, min(1024, context // 64)),
            "max_choices": max(1, min(MOST_CHOICES, size.max_num_seqs - 1)),
        }
        return ServedLimits.model_validate(
            {name: derived[name] if value is None else value for name, value in own.items()}
        )


class ServedLimits(RequestLimits):
    """`RequestLimits` with a number for each."""

    max_body_kib: int
    max_text_kib: int
    max_token_ids: int
    max_choice_token_ids: int
    max_messages: int
    max_choices: int

    @property
    def max_body_bytes(self) -> int:
        """The largest body in bytes."""
        return self.max_body_kib * 1024


class EngineSize(NamedTuple):
    """What vLLM serves, as far as bounds are derived from it."""

    max_model_len: int = SMALLEST_TEXT_KIB * 1024 // BYTES_PER_TOKEN
    max_num_seqs: int = 2 * MOST_CHOICES
    multimodal: bool = False


def exceeded(
    place: str, got: object, limit: str, limits: RequestLimits, *, unit: str = "", param: str | None
) -> RequestError:
    """Make the refusal of what is above a bound."""
    most = f"{getattr(limits, limit)}{unit}"
    return RequestError(
        where=place,
        got=f"{got}{unit}",
        want=f"at most {most} (limits.{limit})",
        fix="send less of it, or ask the operator to raise the limit",
        param=param,
    )


def refuse_count(place: str, got: int, limit: str, limits: RequestLimits, param: str) -> None:
    """Compare a count with its bound.

    Raises:
        RequestError: it is above; the message begins with `place`.
    """
    if got > getattr(limits, limit):
        raise exceeded(place, got, limit, limits, param=param)


class Limits(RequestLimits):
    """Bounds of the server, and those on each request."""

    max_programs: int = Field(default=64, ge=1, le=4096)
    max_rank: int = Field(default=8, ge=1, le=64)
    max_norm_ratio: float = Field(default=0.5, gt=0)
    """Largest edit, as a fraction of the mean residual norm at the tap."""
    table_mib: int = Field(default=1024, ge=1)
    read_cache_mib: int = Field(default=256, ge=0)
    """Memory of each engine for what probes read in blocks of the prefix cache; 0 keeps nothing,
    and then requests under an enforced rule of the prompt take nothing from the prefix cache."""
    max_read_columns: int = Field(default=1024, ge=0)
    """Numbers that all probes together read of a token; a linear probe reads one a layer."""
    max_head_state_kib: int = Field(default=64, ge=0)
    """Of each request that is scored, for heads that pool what they read."""
    max_wait_ms: int = Field(default=2000, ge=0)
