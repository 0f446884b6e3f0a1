"""All that is loaded, by the operator's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from pilothouse.config import ArtefactRef, PilothouseConfig
from pilothouse.errors import ArtefactError
from pilothouse.model.artefact import MANIFEST_FILE, WEIGHTS_FILE, complaint, kind_of
from pilothouse.model.hub import check_digest, folder_of
from pilothouse.model.manifest import Readout
from pilothouse.model.probe import Probe, load_probe
from pilothouse.model.transform import Transform, load_transform
from pilothouse.model.vector import Vector, load_vector
from pilothouse.types import SignalSpec, Site

SERVED_SITES: tuple[Site, ...] = (
    "embed", "resid_pre", "attn_heads", "attn_out", "resid_mid", "mlp_neurons", "mlp_out",
    "resid_post",
)  # fmt: skip
"""Where artefacts can be: every site in the order of the pass, but `logits`, of which no hook of a
decoder block knows."""

Source = Vector | Transform
"""What can be steered with."""

ARTEFACT_FILES = (MANIFEST_FILE, WEIGHTS_FILE)
A = TypeVar("A", Source, Probe)


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """Vectors, transforms and probes of one start; compared by identity, never changed."""

    vectors: Mapping[str, Source] = field(default_factory=lambda: MappingProxyType({}))
    probes: Mapping[str, Probe] = field(default_factory=lambda: MappingProxyType({}))


def load_catalogue(config: PilothouseConfig) -> Catalogue:
    """Every vector and probe that the configuration names.

    Raises:
        ArtefactError: one line for each artefact that cannot be used, or is for another model or
            width than the first.
    """
    problems: list[str] = []
    vectors = _load_all("vectors", config.vectors, load_source, problems)
    probes = _load_all("probes", config.probes, load_probe, problems)
    places = {id(each): str(config.vectors[name].path) for name, each in vectors.items()}
    places |= {id(each): str(config.probes[name].path) for name, each in probes.items()}
    problems += _disagreements([*vectors.values(), *probes.values()], places)
    if problems:
        raise ArtefactError("\n".join(problems))
    return Catalogue(MappingProxyType(vectors), MappingProxyType(probes))


def load_source(name: str, path: Path) -> Source:
    """The vector or transform in a folder, whichever its manifest says.

    Raises:
        ArtefactError: as `load_vector` and `load_transform`.
    """
    if kind_of(path) == "transform":
        return load_transform(name, path)
    return load_vector(name, path)


def signals_of(probe: Probe) -> tuple[SignalSpec, ...]:
    """The probe's readouts as signals, keys `probe/readout` with the operator's probe name.

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


def _disagreements(loaded: list[Source | Probe], places: Mapping[int, str]) -> list[str]:
    lines = []
    remedy = "load artefacts that were made for the served model"
    for each in loaded:
        first = loaded[0]
        place = f"{places[id(each)]}/{MANIFEST_FILE}"
        if each.site not in SERVED_SITES:
            lines.append(
                complaint(place, "site", repr(each.site), f"one of {list(SERVED_SITES)}",
                          "fit the artefact at a site that is served")
            )  # fmt: skip
        for name in ("model_id", "d_model"):
            got, want = getattr(each, name), getattr(first, name)
            if got != want:
                lines.append(
                    complaint(place, name, repr(got), f"{want!r} as {first.name!r} has", remedy)
                )
    return lines
