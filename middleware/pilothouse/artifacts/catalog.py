"""All that is loaded, by the operator's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from pilothouse.artifacts.folder import MANIFEST_FILE, WEIGHTS_FILE, complaint, kind_of
from pilothouse.artifacts.hub import check_digest, folder_of
from pilothouse.artifacts.manifest import Readout
from pilothouse.artifacts.probe import Probe, load_probe
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.cache import open_sae
from pilothouse.artifacts.transform import Transform, load_transform
from pilothouse.artifacts.vector import Vector, load_vector
from pilothouse.config import ArtefactRef, PilothouseConfig, SaeRef
from pilothouse.errors import ArtefactError
from pilothouse.types import PROJECTION_SITES, SignalSpec, Site

SERVED_SITES: tuple[Site, ...] = (
    "embed",
    "resid_pre",
    "attn_heads",
    "attn_out",
    "resid_mid",
    "mlp_neurons",
    "mlp_out",
    "resid_post",
)
"""Where artefacts can be: every site in the order of the pass, but `logits`, of which no hook of a
decoder block knows."""

Source = Vector | Transform
"""Directions and maps to steer with; features of SAEs are the other thing."""

ARTEFACT_FILES = (MANIFEST_FILE, WEIGHTS_FILE)
A = TypeVar("A", Source, Probe)


@dataclass(frozen=True, slots=True, eq=False)
class Catalog:
    """What one start has loaded; compared by identity, never changed."""

    vectors: Mapping[str, Source] = field(default_factory=lambda: MappingProxyType({}))
    probes: Mapping[str, Probe] = field(default_factory=lambda: MappingProxyType({}))
    saes: Mapping[str, Sae] = field(default_factory=lambda: MappingProxyType({}))


def load_catalog(config: PilothouseConfig) -> Catalog:
    """Read every vector, probe and SAE that the configuration names.

    Raises:
        ArtefactError: one line for each artefact that cannot be used, or is for another model or
            width than the first.
    """
    problems: list[str] = []
    vectors = _load_all("vectors", config.vectors, load_source, problems)
    probes = _load_all("probes", config.probes, load_probe, problems)
    saes = _load_saes(config.saes, problems)
    refs: Sequence[tuple[Mapping[str, Vector | Transform | Probe], Mapping[str, ArtefactRef]]] = (
        (vectors, config.vectors),
        (probes, config.probes),
    )
    placed = [
        (each, f"{refs_of[name].path}/{MANIFEST_FILE}")
        for loaded, refs_of in refs
        for name, each in loaded.items()
    ]
    problems += _disagreements(placed)
    problems += _strangers(saes, config, [each for each, _ in placed])
    if problems:
        raise ArtefactError("\n".join(problems))
    return Catalog(MappingProxyType(vectors), MappingProxyType(probes), MappingProxyType(saes))


def load_source(name: str, path: Path) -> Source:
    """Read the vector or transform in a folder, whichever its manifest says.

    Raises:
        ArtefactError: as `load_vector` and `load_transform`.
    """
    if kind_of(path) == "transform":
        return load_transform(name, path)
    return load_vector(name, path)


def signals_of(probe: Probe) -> tuple[SignalSpec, ...]:
    """Return the probe's readouts as signals, keys `probe/readout` with the operator's probe name.

    A threshold for any length wins; where a target has thresholds by length only, the highest
    stands for all, so that the false positive rate is met at every length.
    """
    return tuple(
        SignalSpec(
            key=f"{probe.name}/{name}",
            probe=probe.name,
            scope=readout.scope,
            aggregate=readout.aggregate.spec,
            slope=readout.slope,
            offset=readout.offset,
            calibrated=True,
            thresholds=_thresholds(readout),
            head=probe.head.kind,
        )
        for name, readout in probe.readouts.items()
    )


def _thresholds(readout: Readout) -> tuple[tuple[float, float], ...]:
    chosen: dict[float, float] = {}
    for each in readout.thresholds:
        if each.length_bucket is not None:
            chosen[each.target_fpr] = max(each.value, chosen.get(each.target_fpr, 0.0))
    chosen |= {
        each.target_fpr: each.value for each in readout.thresholds if each.length_bucket is None
    }
    return tuple(sorted(chosen.items()))


def _load_all(
    section: str,
    refs: Mapping[str, ArtefactRef],
    load: Callable[[str, Path], A],
    problems: list[str],
) -> dict[str, A]:
    loaded: dict[str, A] = {}
    for name, ref in refs.items():
        try:
            found = load(name, folder_of(ref.path, ARTEFACT_FILES))
            check_digest(f"{section}.{name}", ref.path, ref.digest, found.digest)
            loaded[name] = found
        except ArtefactError as error:
            problems.append(str(error))
    return loaded


def _load_saes(refs: Mapping[str, SaeRef], problems: list[str]) -> dict[str, Sae]:
    loaded: dict[str, Sae] = {}
    for name, ref in refs.items():
        try:
            found = open_sae(name, ref)
            check_digest(f"saes.{name}", ref.path, ref.digest, found.digest)
            loaded[name] = found
        except ArtefactError as error:
            problems.append(str(error))
    return loaded


def _disagreements(loaded: Sequence[tuple[Source | Probe, str]]) -> list[str]:
    lines = []
    remedy = "load artefacts that were made for the served model"
    for each, place in loaded:
        first = loaded[0][0]
        if each.site not in SERVED_SITES:
            lines.append(
                complaint(
                    place,
                    "site",
                    repr(each.site),
                    f"one of {list(SERVED_SITES)}",
                    "fit the artefact at a site that is served",
                )
            )
        for name in ("model_id", "d_model"):
            got, want = getattr(each, name), getattr(first, name)
            if got != want:
                lines.append(
                    complaint(place, name, repr(got), f"{want!r} as {first.name!r} has", remedy)
                )
    return lines


def _strangers(
    saes: Mapping[str, Sae], config: PilothouseConfig, others: Sequence[Source | Probe]
) -> list[str]:
    """Return a line for each SAE that is of another model or width than what else is loaded."""
    model_id = next((each.model_id for each in (*others, *saes.values())), "")
    width = next((each.d_model for each in others), None)
    lines = []
    for name, sae in saes.items():
        place = config.saes[name].path
        if sae.model_id != model_id:
            lines.append(
                complaint(
                    place,
                    "model",
                    repr(sae.model_id),
                    f"{model_id!r} as others have",
                    f"load one that was made for it; where both are the same weights, say "
                    f"`model: {model_id}` under saes.{name}",
                )
            )
        if sae.site in SERVED_SITES and sae.site not in PROJECTION_SITES:
            width = sae.width if width is None else width
            if sae.width != width:
                lines.append(
                    complaint(
                        place,
                        "width",
                        sae.width,
                        f"{width} as others have at {sae.site}",
                        "load an SAE that was made for the served model",
                    )
                )
        if sae.site not in SERVED_SITES:
            lines.append(
                complaint(
                    place,
                    "site",
                    repr(sae.site),
                    f"one of {list(SERVED_SITES)}",
                    "use an SAE of a site that is served",
                )
            )
    return lines
