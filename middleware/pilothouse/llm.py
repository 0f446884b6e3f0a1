"""Offline use: vLLM's `LLM` with the same plan, engine and policies as a server.

from pilothouse import LLM, Steer

llm = LLM("my-model", pilothouse_config="pilothouse.yaml")
outputs = llm.generate(["hello"], steer=[Steer(vector="cheerful", scale=4.0)])
outputs[0].outputs[0].pilothouse["action"]
"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm import LLM as VllmLLM
from vllm import RequestOutput, SamplingParams

from pilothouse.artifacts.catalog import load_catalog
from pilothouse.capture.order import Positions, Storage, capture_order, prompts_of
from pilothouse.capture.reader import CaptureReader
from pilothouse.config import PilothouseConfig, load_config
from pilothouse.engine.capture_session import capture_index
from pilothouse.engine.launch import SCHEDULER, WORKER, guard_environment, settle_speculation
from pilothouse.engine.plan.build import resolve_plan
from pilothouse.engine.plan.model_facts import model_facts
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.update import following_plan
from pilothouse.engine.scheduler.authorship import policy_messages
from pilothouse.engine.unsupported_flags import refuse_settings
from pilothouse.engine.vllm.chat import turn_markers
from pilothouse.engine.vllm.check import check
from pilothouse.engine.vllm.prompts import begins_twice, check_template_kwargs
from pilothouse.engine.vllm.rpc import ask_engine
from pilothouse.errors import ConfigError, EngineError
from pilothouse.log_text import log_text
from pilothouse.offline.capturing import Capturing
from pilothouse.offline.governance import Governance, Run, Steering, request_fields
from pilothouse.policy.endpoint_names import EndpointName
from pilothouse.policy.loader import load_policies
from pilothouse.server.start_report import log_start
from pilothouse.term import SteerTerm as Steer
from pilothouse.types import ScoreDetail, Site

__all__ = ["LLM", "CaptureReader", "Steer"]

logger = logging.getLogger(__name__)
CLIENT = 0
"""What the engine calls the one process that asks it here."""


class LLM(VllmLLM):  # type: ignore[misc]
    """vLLM's `LLM`; `generate` and `chat` also take what a request's `pilothouse` field takes.

    Each output has `.pilothouse` (`decision_id`, `revision`), each of its completions too, as a
    choice of the server's answer has it: `action`, `rules`, `scores`, `steered`. A completion that
    a policy ended holds what was cleared, and `message` what a client would read.

    Args:
        model: as for vLLM.
        pilothouse_config: a file, a configuration, or None for a model that nothing governs.
        settings: passed to vLLM's `LLM`.

    Raises:
        ConfigError: the configuration does not fit the model.
        UnsupportedError: another vLLM than was tested; a setting that is refused with Pilothouse.
    """

    def __init__(
        self,
        model: str,
        *,
        pilothouse_config: str | Path | PilothouseConfig | None = None,
        **settings: Any,
    ) -> None:
        guard_environment()
        check("offline")
        args = Namespace(model=model, **settings)
        refuse_settings(args)
        settle_speculation(args)
        settings = {name: value for name, value in vars(args).items() if name != "model"}
        self.plan = _plan(pilothouse_config, args)
        self._governance = Governance(self.plan)
        additional = dict(settings.pop("additional_config", None) or {})
        super().__init__(
            model,
            worker_cls=WORKER,
            scheduler_cls=SCHEDULER,
            additional_config=additional | self.plan.to_additional_config(),
            **settings,
        )
        log_start(self.plan)

    def generate(
        self,
        prompts: Any,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        steer: Steering = (),
        probes: Sequence[str] = (),
        scores: ScoreDetail = "summary",
        profile: str | None = None,
        **more: Any,
    ) -> list[RequestOutput]:
        """As vLLM's, governed by the policies and steered as asked.

        `steer` holds for every prompt; a list of lists has the terms of each prompt.

        Raises:
            ConfigError: lists of terms for another number of prompts.
            RequestError: steering or probes that the plan does not have.
        """
        asked = prompts if isinstance(prompts, list | tuple) else [prompts]
        _warn_of_doubled(self.renderer, asked, more)
        run = super().generate
        fields = request_fields(steer, probes, scores, len(asked))
        return self._governed(
            "completions",
            sampling_params,
            fields,
            profile,
            lambda params: run(asked, params, **more),
        )

    def chat(
        self,
        messages: Any,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        steer: Steering = (),
        probes: Sequence[str] = (),
        scores: ScoreDetail = "summary",
        profile: str | None = None,
        **more: Any,
    ) -> list[RequestOutput]:
        """As `generate`, for one conversation or a list of them."""
        single = bool(messages) and isinstance(messages[0], dict)
        conversations = [messages] if single else list(messages)
        _check_chat(self.renderer, more)
        run = super().chat
        fields = request_fields(steer, probes, scores, len(conversations))
        return self._governed(
            "chat",
            sampling_params,
            fields,
            profile,
            lambda params: run(conversations, params, **more),
        )

    def capture(
        self,
        prompts: Any,
        layers: Sequence[int],
        *,
        out: str | Path,
        sites: Sequence[Site] = ("resid_post",),
        positions: Positions = "prompt",
        max_tokens: int | None = None,
        steer: Sequence[Steer] = (),
        profile: str | None = None,
        dtype: Storage = "float32",
        rows_per_shard: int | None = None,
        progress: bool = True,
        **more: Any,
    ) -> CaptureReader:
        """Write the activations of prompts to a folder, as the engine computes them.

        Runs as `generate` and `chat` do: same batches, steering and policies, greedy. Rows go to
        disk as they come; at most one file's worth is held. Called again with the same arguments
        it does what an interrupted call left undone.

        Args:
            prompts: texts, lists of token ids, or conversations (lists of messages).
            layers: each of them is read at each of `sites`.
            sites: hook sites to read, such as `resid_post`.
            out: a folder, new, empty or left by an interrupted call.
            positions: `prompt`, `last_prompt`, `output` (sampled tokens that were fed: all but
                the last of an answer) or `all`.
            max_tokens: of an answer, 16 if not said; only with positions that hold output.
            steer: the steering terms of every prompt, as in a request's `pilothouse` field.
            profile: the name of a configured profile that steers every prompt.
            dtype: of the rows on disk.
            rows_per_shard: of one file; by default a file has about 256 MiB.
            progress: tell on stderr how far it is: a bar, or lines where that is no terminal.
            more: passed to vLLM's `enqueue` or `enqueue_chat`.

        Returns:
            What reads the folder. An activation is what the model goes on with: behind any edit
            at the same place.

        Raises:
            ConfigError: an argument that is wrong, or a folder that cannot be taken.
            RequestError: steering that the plan does not have.
            EngineError: a place that cannot be read, rows that cannot be written.
            KeyboardInterrupt: Ctrl-C; prompts answered by then are kept.
        """
        asked, is_chat = prompts_of(prompts)
        if is_chat:
            _check_chat(self.renderer, more)
        else:
            _warn_of_doubled(self.renderer, asked, more)
        facts = self.plan.body.model
        order = capture_order(
            asked,
            layers=layers,
            sites=sites,
            positions=positions,
            max_tokens=max_tokens,
            steer=steer,
            profile=profile,
            dtype=dtype,
            rows_per_shard=rows_per_shard,
            options=more,
            num_layers=facts.num_layers,
            d_model=facts.d_model,
            widths=facts.projection_widths,
        )
        if self.llm_engine.has_unfinished_requests():
            raise ConfigError("capture: requests are waiting: call wait_for_completion() first")
        give = super().enqueue_chat if is_chat else super().enqueue

        def enqueue(prompt: Any, params: SamplingParams) -> str:
            [name] = give([prompt], [params], use_tqdm=False, **more)
            return str(name)

        index = capture_index(self.plan, order, self.llm_engine.vllm_config.model_config.dtype)
        endpoint: EndpointName = "chat" if is_chat else "completions"
        run = Capturing(self, self._governance, order, asked, endpoint, enqueue)
        return run.into(Path(out).absolute(), index, progress=progress)

    def reload(self, pilothouse_config: str | Path | PilothouseConfig) -> None:
        """Follow another configuration on the taps and tables of the running one.

        What may differ is what a server's reload may change: vectors, profiles, some limits.

        Raises:
            ConfigError: something that is laid down at start differs; nothing has changed.
            EngineError: the engine did not take it.
        """
        plan, before = following_plan(self.plan, _granted(pilothouse_config)), self.plan.revision
        if plan.revision == before:
            return
        if self.llm_engine.has_unfinished_requests():
            raise ConfigError("reload: requests are waiting: call wait_for_completion() first")
        refusal = ask_engine(self.llm_engine, "prepare", CLIENT, plan.revision, plan.to_wire())
        if refusal:
            raise EngineError(f"reload: nothing has changed: {refusal}")
        if not ask_engine(self.llm_engine, "activate", CLIENT, before, plan.revision):
            raise EngineError(f"reload: the engine does not run revision {before}; start it anew")
        self.plan = plan
        self._governance.follow(plan)
        ask_engine(self.llm_engine, "release", CLIENT, before)

    def _governed(
        self,
        endpoint: EndpointName,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        fields: Sequence[dict[str, Any]],
        profile: str | None,
        run: Run,
    ) -> list[RequestOutput]:
        given = sampling_params or self.get_default_sampling_params()
        each = [given] * len(fields) if isinstance(given, SamplingParams) else list(given)
        return self._governance.run(endpoint, each, fields, profile, run)


def _plan(config: str | Path | PilothouseConfig | None, args: Namespace) -> Plan:
    known = _granted(config or PilothouseConfig(version=1))
    policies = load_policies(known.policies)
    turns = turn_markers(args, policy_messages(policies))
    return resolve_plan(known, load_catalog(known), policies, model_facts(args), turns=turns)


def _granted(config: str | Path | PilothouseConfig) -> PilothouseConfig:
    known = load_config(Path(config)) if isinstance(config, str | Path) else config
    granted = known.auth.model_copy(update={"client_steering": True, "client_scores": True})
    return known.model_copy(update={"auth": granted})


def _check_chat(renderer: Any, options: Mapping[str, Any]) -> None:
    """Refuse variables that the chat template does not read, which vLLM drops in silence."""
    check_template_kwargs(
        renderer, options.get("chat_template_kwargs") or {}, template=options.get("chat_template")
    )


def _warn_of_doubled(renderer: Any, prompts: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Log once where texts begin with the token that the tokenizer puts in front anyway.

    The ids stay those that vLLM gives the same text over HTTP.
    """
    tokenizer = renderer.tokenizer
    adds = (options.get("tokenization_kwargs") or {}).get("add_special_tokens", True)
    if tokenizer is None or not adds:
        return
    doubled = [
        number for number, each in enumerate(prompts) if begins_twice(tokenizer, _text(each))
    ]
    if doubled:
        logger.warning(
            "prompts: number %d and %d more begin with %s, which the tokenizer puts in front "
            "anyway: the model reads it twice, here as over /v1/completions; take it out",
            doubled[0],
            len(doubled) - 1,
            log_text(tokenizer.bos_token),
        )


def _text(prompt: Any) -> str:
    text = prompt.get("prompt") if isinstance(prompt, dict) else prompt
    return text if isinstance(text, str) else ""
