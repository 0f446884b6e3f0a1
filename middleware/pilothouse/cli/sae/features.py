"""`pilothouse sae features`: ranks the features that a text turns on in the served model.

Shape suffixes: T tokens, D width of the site, M features.
"""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from pilothouse.artifacts.importing.source import read_sae
from pilothouse.artifacts.saes.cache import open_sae
from pilothouse.cli.common import ChatTemplateKwargs, exits, template_kwargs
from pilothouse.cli.sae.option import (
    AverageNorm,
    Centred,
    FormatName,
    LayerNumber,
    ModelId,
    SiteName,
    noted,
    sae_hints,
)
from pilothouse.config import load_config
from pilothouse.edits.sae_codes import TopFeature, encode, top_features
from pilothouse.errors import ConfigError
from pilothouse.offline_env import set_offline_env
from pilothouse.progress import waiting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pilothouse.artifacts.saes.autoencoder import Sae
    from pilothouse.artifacts.saes.hints import SaeHints
    from pilothouse.capture.reader import CaptureReader


@dataclass(frozen=True, slots=True)
class On:
    """A feature that is on, to be printed: `share` of its largest code, where the file has that."""

    feature: int
    label: str | None
    code: float
    share: float | None
    position: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Token:
    """A token and the features that are strongest there."""

    position: int
    token_id: int
    text: str
    is_output: bool
    features: tuple[On, ...]


@dataclass(frozen=True, slots=True)
class Features:
    """What a text turned on: over all its tokens, and token by token."""

    top: tuple[On, ...]
    tokens: tuple[Token, ...]


def features(
    prompt: Annotated[str, typer.Argument(help="A user's message, or a text with --raw.")],
    model: Annotated[str, typer.Option(help="The model's folder or name, as for `serve`.")],
    sae_name: Annotated[
        str, typer.Option("--sae", help="The SAE's folder, or its name in --pilothouse-config.")
    ],
    config: Annotated[
        Path | None,
        typer.Option("--pilothouse-config", "--config", help="A pilothouse.yaml with `saes`."),
    ] = None,
    format_name: FormatName = None,
    model_id: ModelId = None,
    layer: LayerNumber = None,
    site: SiteName = None,
    average_norm: AverageNorm = None,
    centred: Centred = None,
    raw: Annotated[bool, typer.Option("--raw", help="No chat template around it.")] = False,
    chat_template_kwargs: ChatTemplateKwargs = None,
    answer_tokens: Annotated[
        int, typer.Option(min=0, help="Let the model answer, and read this many tokens too.")
    ] = 0,
    dtype: Annotated[str, typer.Option(help="As for `serve`.")] = "auto",
    top: Annotated[int, typer.Option(min=1, help="How many features.")] = 10,
    tokens: Annotated[bool, typer.Option("--tokens", help="Print them token by token.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, tokens included.")] = False,
) -> None:
    """Print the features that are strongest in a prompt, by the served engine's activations."""
    with exits():
        hints = sae_hints(model_id, layer, site, average_norm, centred)
        with waiting(f"reading {sae_name}"):
            sae, known_as = _opened(sae_name, format_name, hints, config)
        _check_fits(sae, model, known_as)
        kwargs = template_kwargs(chat_template_kwargs)
        if raw and kwargs:
            raise ConfigError("--chat-template-kwargs: got it with --raw, which has no template")
        set_offline_env(in_process=True)
        asked = _checked(prompt, model, None if raw else kwargs)
        found = _found(sae, asked, model, kwargs, answer_tokens, dtype, top)
    typer.echo(_json(sae, model, found) if as_json else _text(sae, found, tokens))


def features_of(sae: Sae, reader: CaptureReader, tokenizer: Any, count: int) -> Features:
    """Rank the features of a capture of one prompt at the SAE's tap.

    The first token stands in the list of tokens and is not ranked: many models keep a sink there,
    whose codes are like no other token's and would be all that one sees.
    """
    hidden_TD, labels = reader.layer(sae.tap.layer, sae.tap.site)
    codes_TM = encode(sae, hidden_TD.astype(np.float64))
    ranked_T = labels.position_R > 0 if len(labels) > 1 else labels.position_R >= 0
    return Features(
        top=tuple(
            _on(sae, each, labels.position_R[ranked_T])
            for each in top_features(codes_TM[ranked_T], count)
        ),
        tokens=tuple(
            Token(
                position=int(labels.position_R[row]),
                token_id=int(labels.token_id_R[row]),
                text=tokenizer.decode([int(labels.token_id_R[row])]),
                is_output=bool(labels.is_output_R[row]),
                features=tuple(
                    _on(sae, each, labels.position_R[row : row + 1])
                    for each in top_features(codes_TM[row : row + 1], count)
                ),
            )
            for row in range(len(labels))
        ),
    )


def _checked(prompt: str, model: str, kwargs: dict[str, Any] | None) -> Any:
    """Check, before an engine starts, that the model's template takes the prompt.

    Raises:
        ConfigError: in the template's own words.
    """
    from pilothouse.engine.vllm.prompts import PromptRenderer  # vLLM takes seconds to import

    renderer = PromptRenderer(model, {}, kwargs or {})
    if kwargs is not None:
        conversation = [{"role": "user", "content": prompt}]
        try:
            renderer.chat(conversation)
        except ConfigError as error:
            raise ConfigError(f"PROMPT: {error}; or give it --raw") from error
        return conversation
    if renderer.begins_twice(prompt):
        typer.echo(
            f"PROMPT: begins with {renderer.tokenizer.bos_token!r}, which the tokenizer puts in "
            "front anyway: the model reads it twice",
            err=True,
        )
    return prompt


def _found(
    sae: Sae,
    asked: Any,
    model: str,
    kwargs: dict[str, Any],
    answer_tokens: int,
    dtype: str,
    count: int,
) -> Features:
    from pilothouse.llm import LLM  # vLLM takes seconds to import

    with waiting(f"starting an engine with {model}"):
        llm = LLM(model, dtype=dtype, enforce_eager=True)
    more: dict[str, Any] = {"chat_template_kwargs": kwargs} if kwargs else {}
    with waiting("reading features"), TemporaryDirectory(prefix="pilothouse-features-") as place:
        reader = llm.capture(
            [asked],
            [sae.tap.layer],
            sites=[sae.tap.site],
            out=place,
            progress=False,
            positions="all" if answer_tokens else "prompt",
            max_tokens=answer_tokens or None,
            **more,
        )
        return features_of(sae, reader, llm.get_tokenizer(), count)


def _opened(
    sae_name: str, format_name: str | None, hints: SaeHints, place: Path | None
) -> tuple[Sae, str | None]:
    """Open the SAE; also give the model's name in artefacts, if that is not its own."""
    if place is None:
        return noted(read_sae(sae_name, format_name, hints)), hints.model_id
    said = {"format": format_name, "model": hints.model_id} | hints._asdict()
    given = sorted(name for name, each in said.items() if each is not None and name != "model_id")
    if given:
        raise ConfigError(
            f"--pilothouse-config: got {given} beside it; {place} says them: leave out"
        )
    config = load_config(place)
    if sae_name not in config.saes:
        raise ConfigError(
            where="--sae",
            got=repr(sae_name),
            want=f"one under `saes` of {place}: {sorted(config.saes)}",
        )
    known = config.saes[sae_name]
    return open_sae(sae_name, known), known.model or config.model_id


def _check_fits(sae: Sae, model: str, model_id: str | None) -> None:
    from pilothouse.engine.plan.model_facts import model_facts

    facts = model_facts(Namespace(model=model))
    names = {model_id} if model_id else {model, Path(model).resolve().name}
    if sae.model_id not in names:
        raise ConfigError(
            f"{sae.name}: made for {sae.model_id}; --model is {model}: give an SAE of this model, "
            f"or, if it is that model under another name, --model-id {sae.model_id}"
        )
    width = facts.projection_widths.get(sae.tap.site, facts.d_model)
    if sae.width != width:
        raise ConfigError(
            where=sae.name,
            got=f"width {sae.width}",
            want=f"the {width} of {model} at {sae.tap.site}",
            fix="give an SAE of this model",
        )
    if sae.tap.layer >= facts.num_layers:
        raise ConfigError(
            where=sae.name,
            got=f"layer {sae.tap.layer}",
            want=f"0 to {facts.num_layers - 1} as {model} has them",
            fix="give an SAE of this model",
        )


def _on(sae: Sae, found: TopFeature, position_T: NDArray[Any]) -> On:
    largest = 0.0 if sae.max_act_M is None else float(sae.max_act_M[found.feature])
    return On(
        feature=found.feature,
        label=sae.labels.get(found.feature),
        code=found.code,
        share=found.code / largest if largest > 0 else None,
        position=int(position_T[found.token]),
        num_tokens=found.num_tokens,
    )


def _json(sae: Sae, model: str, found: Features) -> str:
    about = {
        "name": sae.name,
        "model": model,
        "layer": sae.tap.layer,
        "site": sae.tap.site,
        "form": sae.form,
        "num_features": sae.num_features,
        "digest": sae.digest,
    }
    return json.dumps({"sae": about, **asdict(found)}, indent=2)


def _text(sae: Sae, found: Features, shows_tokens: bool) -> str:
    texts = {each.position: each.text for each in found.tokens}
    lines = [
        f"sae       {sae.name}, {sae.form}, {sae.num_features} features at {sae.tap.site} of "
        f"layer {sae.tap.layer}",
        f"tokens    {len(found.tokens)}, "
        f"of which {sum(each.is_output for each in found.tokens)} of the answer; the first, where "
        "many models keep a sink, is not ranked",
        "",
        f"{'feature':>8}{'code':>10}{'of max':>8}{'on':>5}  at",
        *(
            f"{each.feature:>8}{each.code:>10.4g}{_share(each):>8}{each.num_tokens:>5}  "
            f"{each.position}:{texts[each.position]!r}{_label(each)}"
            for each in found.top
        ),
    ]
    if shows_tokens:
        lines += ["", *(line for token in found.tokens for line in _token_lines(token))]
    return "\n".join(lines)


def _token_lines(token: Token) -> list[str]:
    head = f"{token.position:>4} {token.text!r}{' (answer)' if token.is_output else ''}"
    return [
        head,
        *(
            f"{each.feature:>12}{each.code:>10.4g}{_share(each):>8}{_label(each)}"
            for each in token.features
        ),
    ]


def _share(feature: On) -> str:
    return "" if feature.share is None else f"{feature.share:.0%}"


def _label(feature: On) -> str:
    return "" if feature.label is None else f"  {feature.label}"
