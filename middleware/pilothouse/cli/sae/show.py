"""`pilothouse sae show`: prints what an SAE is, and what can be done with its features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from pilothouse.artifacts.folder import MANIFEST_FILE, parse_json, read_file
from pilothouse.artifacts.importing.source import locate_sae
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.detect import detect_format
from pilothouse.artifacts.saes.hints import SaeHints, UnknownModel
from pilothouse.artifacts.saes.native import NAME
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.cli.common import exits
from pilothouse.cli.sae.option import (
    AverageNorm,
    Centred,
    FormatName,
    LayerNumber,
    ModelId,
    SiteName,
    sae_hints,
)
from pilothouse.edits.sae import FeatureEdit, feature_rows, plain_read
from pilothouse.errors import ConfigError, RequestError
from pilothouse.progress import waiting

SHOWN_LABELS = 8
NO_MODEL = "?"


def show(
    source: Annotated[
        str, typer.Argument(metavar="DIR", help="An SAE's folder of any layout, or hf://...")
    ],
    format_name: FormatName = None,
    model_id: ModelId = None,
    layer: LayerNumber = None,
    site: SiteName = None,
    average_norm: AverageNorm = None,
    centred: Centred = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Check an SAE and print its form, sizes, place, labels and digest."""
    with exits(ConfigError), waiting(f"reading {source}"):
        folder = locate_sae(source, format_name, layer, pickles=False).place
        layout = format_name or detect_format(folder)
        hints = sae_hints(model_id, layer, site, average_norm, centred)
        about = _about(folder, layout, hints) | {"source": _source(folder, layout)}
    typer.echo(json.dumps(about, indent=2) if as_json else "\n".join(_lines(about)))


def _about(folder: Path, layout: str, hints: SaeHints) -> dict[str, Any]:
    """Collect what is known; an SAE whose model nobody names can be shown too."""
    name = folder.resolve().name[:64]
    try:
        return described(load_sae(name, folder, layout, hints), layout)
    except UnknownModel:
        loaded = load_sae(name, folder, layout, hints._replace(model_id=NO_MODEL))
    # The digest is one of the model's name too.
    return described(loaded, layout) | {"model_id": None, "digest": None}


def described(sae: Sae, layout: str) -> dict[str, Any]:
    """Return what is known of an SAE, as plain data."""
    labels = dict(sorted(sae.labels.items()))
    maxima_M = sae.max_act_M
    return {
        "name": sae.name,
        "format": layout,
        "digest": sae.digest,
        "model_id": sae.model_id,
        "layer": sae.tap.layer,
        "site": sae.tap.site,
        "width": sae.width,
        "num_features": sae.num_features,
        "form": sae.form,
        "k": sae.k,
        "dtype": "bfloat16" if sae.encoder_DM.is_bfloat16 else str(sae.encoder_DM.raw.dtype),
        "decoder_norms": sae.decoder_norms,
        "normalisation": sae.normalisation,
        "input_scale": sae.input_scale,
        "average_norm": sae.average_norm,
        "subtracts_decoder_bias": sae.subtracts_decoder_bias,
        "is_centred": sae.is_centred,
        "notes": list(sae.notes),
        "labels": {str(key): label for key, label in labels.items()},
        "max_act": None
        if maxima_M is None
        else {
            "features_ever_on": int((maxima_M > 0).sum()),
            "largest": float(maxima_M.max()),
            "median": float(np.median(maxima_M)),
        },
    } | able(sae)


def able(sae: Sae) -> dict[str, Any]:
    """Tell whether features can be edited and made probes; the reason where they cannot."""
    found: dict[str, Any] = {}
    for name, tried in (
        ("edits", lambda: feature_rows(sae, [FeatureEdit(0, "ablate")])),
        ("probes", lambda: plain_read(sae, 0)),
    ):
        try:
            tried()
        except RequestError as error:
            found[name] = str(error)
        else:
            found[name] = True
    return found


def _source(folder: Path, layout: str) -> Any:
    if layout != NAME:
        return None
    place = folder / MANIFEST_FILE
    return parse_json(place, read_file(place, 4 << 20))["source"]


def _lines(about: dict[str, Any]) -> list[str]:
    form = about["form"] + (f", k {about['k']}" if about["k"] else "")
    scale = f", inputs times {about['input_scale']:.6g}" if about["input_scale"] != 1.0 else ""
    centred = ", of a stream without its mean" if about["is_centred"] else ""
    biased = "less the decoder's bias" if about["subtracts_decoder_bias"] else "as it is"
    maxima = about["max_act"]
    lines = [
        f"sae       {about['name']} ({about['format']}, {about['dtype']})",
        f"digest    {about['digest'] or 'none: it hangs on the model, too'}",
        f"model     {about['model_id'] or 'not in the files: say --model-id'}, {about['site']} of "
        f"layer {about['layer']}",
        f"sizes     width {about['width']}, {about['num_features']} features",
        f"form      {form}; decoder's norms {about['decoder_norms']}",
        f"input     {biased}; normalisation {about['normalisation']}{scale}{centred}",
        "norm      "
        + (
            "none: limits.max_norm_ratio cannot bound its edits; give average_norm"
            if about["average_norm"] is None
            else f"{about['average_norm']:.6g} at the tap"
        ),
        "maxima    "
        + (
            "none: the unit max_act cannot be used"
            if maxima is None
            else f"{maxima['features_ever_on']} features ever on, median {maxima['median']:.4g}, "
            f"largest {maxima['largest']:.4g}"
        ),
        f"edits     {_told(about['edits'])}",
        f"probes    {_told(about['probes'])}",
        f"labels    {len(about['labels'])}",
    ]
    lines += [f"note      {note}" for note in about["notes"]]
    named = list(about["labels"].items())
    lines += [f"  {key:>8}  {label}" for key, label in named[:SHOWN_LABELS]]
    lines += [f"  ... and {len(named) - SHOWN_LABELS} more"] if len(named) > SHOWN_LABELS else []
    if about["source"]:
        source = about["source"]
        lines.append(
            f"source    {source['place']} ({source['format']}), revision "
            f"{source['revision'] or 'none'}"
        )
        lines += [f"  {sha256}  {name}" for name, sha256 in sorted(source["files"].items())]
    return lines


def _told(able: bool | str) -> str:
    return "each feature by itself" if able is True else str(able)
