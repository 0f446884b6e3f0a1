"""Which taps can be edited, and what each has tables for: profiles need it or clients may ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pilothouse.artifacts.catalog import Source
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.transform import Transform
from pilothouse.config import PilothouseConfig
from pilothouse.edits.feature import feature_parts, mean_norm
from pilothouse.edits.layer import Assembly
from pilothouse.edits.operators import (
    EXTRAS,
    OPERATORS,
    features_of,
    form_of,
    operator_of,
    places_of,
    with_extras,
)
from pilothouse.edits.row import ROWS
from pilothouse.edits.sae_codes import statistic_of
from pilothouse.edits.sources import Sources
from pilothouse.edits.statistic import Statistic
from pilothouse.edits.table import Parts
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.tap_plan import EditPlan, ResidentSae
from pilothouse.engine.worker.sae_weights import resident_sae
from pilothouse.errors import ConfigError, RequestError
from pilothouse.term import SteerTerm
from pilothouse.types import Tap


def plan_edits(config: PilothouseConfig, sources: Sources, *, demo: bool) -> dict[Tap, EditPlan]:
    """Return every tap that a loaded vector or SAE or a reservation makes editable.

    Raises:
        ConfigError: a profile that needs more rows than `limits.max_rank`, or cannot be compiled.
    """
    edits = {
        Tap(layer, source.site): EditPlan()
        for source in (*sources.edits.values(), *sources.saes.values())
        for layer in source.layers
    }
    edits |= dict.fromkeys(config.taps.reserved(), _promised(config))
    for name, profile in config.profiles.items():
        for tap, needed in _needs(profile.steer, sources, f"profiles.{name}").items():
            _check_rank(needed, config, tap, f"profiles.{name}")
            edits[tap] = edits.get(tap, EditPlan()).with_room_for(needed)
    if demo or config.auth.client_steering:
        for source in sources.edits.values():
            granted = _granted(source, config)
            for layer in source.layers:
                tap = Tap(layer, source.site)
                edits[tap] = edits[tap].with_room_for(granted)
        for sae in sources.saes.values():
            edits[sae.tap] = edits[sae.tap].with_room_for(_granted_features(sae, config))
    return edits


def running_edits(
    wanted: Mapping[Tap, EditPlan], config: PilothouseConfig, sources: Sources, running: Plan
) -> dict[Tap, EditPlan]:
    """Return the edits of a running plan's taps, once it is clear that they are enough.

    Raises:
        ConfigError: something wanted has no tap or no table there; says what to write under `taps`
            for the next start.
    """
    there = {tap.tap: tap.edits for tap in running.body.taps if tap.edits is not None}
    problems: list[str] = []
    missing: list[Tap] = []
    for tap, needed in sorted(wanted.items()):
        lack = there[tap].lacks(needed) if tap in there else "a tap"
        if lack is not None:
            problems.append(
                f"layer {tap.layer} of {tap.site}: needs {lack}, which is made at start"
            )
            missing.append(tap)
    if problems:
        lines = _lines(config, sources, missing, wanted)
        raise ConfigError("\n".join([*problems, "write into pilothouse.yaml and restart:", *lines]))
    return there


def _lines(
    config: PilothouseConfig,
    sources: Sources,
    missing: Sequence[Tap],
    wanted: Mapping[Tap, EditPlan],
) -> list[str]:
    """Return sections of a configuration under which all that is missing fits."""
    layers = {site: set(each) for site, each in config.taps.by_site().items()}
    for tap in missing:
        layers.setdefault(tap.site, set()).add(tap.layer)
    operators = dict.fromkeys(config.taps.operators) | dict.fromkeys(
        _features(config, sources, set(missing))
    )
    lines = ["taps:", *(f"  {site}: {sorted(each)}" for site, each in layers.items())]
    lines.append(f"  operators: [{', '.join(operators)}]")
    rank = max(wanted[tap].rank for tap in missing)
    return lines + ([f"limits: {{max_rank: {rank}}}"] if rank > config.limits.max_rank else [])


def _features(config: PilothouseConfig, sources: Sources, missing: set[Tap]) -> Iterator[str]:
    """Yield what profiles use at taps where it is missing."""
    for profile in config.profiles.values():
        for term in profile.steer:
            if not missing.isdisjoint(tap for tap, _ in places_of(term, sources)):
                yield from features_of(term, sources.of(term)).values()


def _needs(terms: Sequence[SteerTerm], sources: Sources, origin: str) -> Mapping[Tap, EditPlan]:
    """Return what terms need at each tap if all of them hold at one position."""
    needs: dict[Tap, EditPlan] = {}
    for term in terms:
        try:
            for tap, parts in _parts_of(term, sources):
                alone = _needs_of(term, parts, tap, sources)
                known = needs.get(tap, EditPlan())
                rank = known.rank + alone.rank
                needs[tap] = known.with_room_for(alone).model_copy(update={"rank": rank})
        except RequestError as error:
            raise ConfigError(f"{origin}: {error}") from error
    return needs


def _needs_of(term: SteerTerm, parts: Parts, tap: Tap, sources: Sources) -> EditPlan:
    source = sources.of(term)
    assembly = Assembly(tap)
    assembly.take(term, 1.0, with_extras(term, parts, tap, sources))
    edit = assembly.edit(source.width)
    if edit is None:
        return EditPlan()
    return EditPlan(rank=edit.rank, tables=edit.flags, latents=_latents(source))


def _parts_of(term: SteerTerm, sources: Sources) -> Iterator[tuple[Tap, Parts]]:
    source = sources.of(term)
    for tap, layer in places_of(term, sources):
        if isinstance(source, Sae):
            yield tap, feature_parts([term], source)
        else:
            yield tap, OPERATORS[operator_of(term, source)].compile(term, source, layer)


def _promised(config: PilothouseConfig) -> EditPlan:
    """Return what a reserved tap holds: tables for the listed operators on whatever comes later."""
    needs: frozenset[str] = frozenset()
    for name in config.taps.operators:
        if name in OPERATORS:
            needs = needs.union(*OPERATORS[name].forms.values())
        else:
            needs |= EXTRAS[name].needs
    return _plan_of(needs, config.limits.max_rank)


def _granted(source: Source, config: PilothouseConfig) -> EditPlan:
    """Return what clients may do with a vector or transform."""
    allowed, form = set(config.taps.operators), form_of(source)
    able = [spec for name, spec in OPERATORS.items() if form in spec.forms and name in allowed]
    extras = [
        extra
        for name, extra in EXTRAS.items()
        if name in allowed and (extra.beside is None or any(map(extra.beside, able)))
    ]
    needs = {*(need for spec in able for need in spec.forms[form])}
    needs |= {need for extra in extras for need in extra.needs}
    own = source.manifest.rank if isinstance(source, Transform) and form != "diagonal" else 0
    return _plan_of(frozenset(needs), max(config.limits.max_rank, own))


def _plan_of(needs: frozenset[str], max_rank: int) -> EditPlan:
    return EditPlan(rank=max_rank if ROWS in needs else 0, tables=needs - {ROWS})


def _granted_features(sae: Sae, config: PilothouseConfig) -> EditPlan:
    """Return what clients may do with features; its bound must be known before one asks."""
    if "feature" not in config.taps.operators:
        return EditPlan()
    if sae.normalisation == "none":
        try:
            mean_norm(sae)
        except RequestError as error:
            raise ConfigError(str(error)) from error
    with_any = (
        extra.needs
        for name, extra in EXTRAS.items()
        if name in config.taps.operators and extra.beside is None
    )
    needs = EXTRAS["feature"].needs.union(*with_any)
    if statistic_of(sae) != Statistic.NONE:
        needs |= {"statistics"}
    return _plan_of(needs, config.limits.max_rank).model_copy(update={"latents": _latents(sae)})


def _latents(source: Source | Sae) -> tuple[ResidentSae, ...]:
    if isinstance(source, Sae) and source.needs_all_codes:
        return (resident_sae(source),)
    return ()


def _check_rank(needed: EditPlan, config: PilothouseConfig, tap: Tap, origin: str) -> None:
    if needed.rank > config.limits.max_rank:
        raise ConfigError(
            f"{origin}: at layer {tap.layer} it has {needed.rank} gated rows, allowed are "
            f"limits.max_rank = {config.limits.max_rank}: raise it, or use fewer operators"
        )
