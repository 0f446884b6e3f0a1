"""Which taps can be edited, and what each has tables for: profiles need it or clients may ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pilothouse.config import PilothouseConfig
from pilothouse.edit.feature import feature_parts, mean_norm
from pilothouse.edit.operators import OPERATORS, Parts, features_of, form_of, operator_of
from pilothouse.edit.place import places_of
from pilothouse.edit.sae_codes import statistic_of
from pilothouse.edit.sources import Sources
from pilothouse.edit.statistic import Statistic
from pilothouse.engine.plan import Plan
from pilothouse.engine.residents import latent_plan
from pilothouse.engine.tap_plan import EditPlan, LatentPlan, united
from pilothouse.errors import ConfigError, RequestError
from pilothouse.model.catalogue import Source
from pilothouse.model.sae.autoencoder import Sae
from pilothouse.model.transform import Transform
from pilothouse.term import SteerTerm
from pilothouse.types import Reserved, Tap

ROW_OPERATORS = frozenset({"add_below", "ablate", "reflect", "set", "floor", "cap", "affine"})
PLANE_OPERATORS = frozenset({"rotate", "rotate_adaptive"})


def plan_edits(config: PilothouseConfig, sources: Sources, *, demo: bool) -> dict[Tap, EditPlan]:
    """Every tap that a loaded vector or SAE or a reservation makes editable.

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
            edits[tap] = _both(edits.get(tap, EditPlan()), needed)
    if demo or config.auth.client_steering:
        for source in sources.edits.values():
            granted = _granted(source, config)
            for layer in source.layers:
                tap = Tap(layer, source.site)
                edits[tap] = _both(edits[tap], granted)
        for sae in sources.saes.values():
            edits[sae.tap] = _both(edits[sae.tap], _granted_features(sae, config))
    return edits


def running_edits(
    wanted: Mapping[Tap, EditPlan], config: PilothouseConfig, sources: Sources, running: Plan
) -> dict[Tap, EditPlan]:
    """The edits of a running plan's taps, once it is clear that they are enough.

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
    """Sections of a configuration under which all that is missing fits."""
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


def _features(config: PilothouseConfig, sources: Sources, missing: set[Tap]) -> Iterator[Reserved]:
    """What profiles use at taps where it is missing."""
    for profile in config.profiles.values():
        for term in profile.steer:
            if not missing.isdisjoint(tap for tap, _ in places_of(term, sources)):
                yield from features_of(term, sources.of(term)).values()


def _needs(terms: Sequence[SteerTerm], sources: Sources, origin: str) -> Mapping[Tap, EditPlan]:
    needs: dict[Tap, EditPlan] = {}
    for term in terms:
        try:
            for tap, parts in _parts_of(term, sources):
                known = needs.get(tap, EditPlan())
                rows = len(parts.planes + parts.codes + parts.projections + parts.gated)
                needs[tap] = EditPlan(
                    rank=known.rank + rows + (term.gate is not None),
                    planes=known.planes or bool(parts.planes),
                    diagonal=known.diagonal or parts.diagonal_4D is not None,
                    slerp=known.slerp or parts.slerp_D is not None,
                    relative=known.relative or parts.relative_D is not None,
                    restores_norm=known.restores_norm or bool(term.restore_norm),
                    statistics=known.statistics or any(row.statistic for row in parts.codes),
                    latents=united(known.latents, _latents(sources.of(term))),
                )
        except RequestError as error:
            raise ConfigError(f"{origin}: {error}") from error
    return needs


def _parts_of(term: SteerTerm, sources: Sources) -> Iterator[tuple[Tap, Parts]]:
    source = sources.of(term)
    for tap, layer in places_of(term, sources):
        if isinstance(source, Sae):
            yield tap, feature_parts([term], source)
        else:
            yield tap, OPERATORS[operator_of(term, source)].compile(term, source, layer)


def _promised(config: PilothouseConfig) -> EditPlan:
    """What a reserved tap holds: the listed operators, with whatever is loaded there later."""
    allowed = set(config.taps.operators)
    rows = bool(allowed & {*ROW_OPERATORS, *PLANE_OPERATORS, "apply", "gate", "feature"})
    return EditPlan(
        rank=config.limits.max_rank if rows else 0,
        planes=bool(allowed & PLANE_OPERATORS),
        diagonal=bool(allowed & {"apply", "replace"}),
        slerp="slerp" in allowed,
        relative="token_unit" in allowed,
        restores_norm="restore_norm" in allowed,
    )


def _granted(source: Source, config: PilothouseConfig) -> EditPlan:
    allowed = set(config.taps.operators)
    form = form_of(source)
    able = {name for name, spec in OPERATORS.items() if form in spec.forms} & allowed
    maps = form == "diagonal" and "apply" in able
    rows = bool(able & (ROW_OPERATORS | PLANE_OPERATORS)) or ("gate" in allowed and "add" in able)
    rows = rows or (form == "lowrank" and "apply" in able)
    own = source.manifest.rank if isinstance(source, Transform) and form != "diagonal" else 0
    return EditPlan(
        rank=max(config.limits.max_rank, own) if rows else 0,
        planes=bool(able & PLANE_OPERATORS),
        diagonal=maps or "replace" in able,
        slerp="slerp" in able,
        relative="token_unit" in allowed and "add" in able,
        restores_norm="restore_norm" in allowed,
    )


def _granted_features(sae: Sae, config: PilothouseConfig) -> EditPlan:
    """What clients may do with features; its bound must be known before one asks."""
    if "feature" not in config.taps.operators:
        return EditPlan()
    if sae.normalisation == "none":
        try:
            mean_norm(sae)
        except RequestError as error:
            raise ConfigError(str(error)) from error
    return EditPlan(
        rank=config.limits.max_rank,
        restores_norm="restore_norm" in config.taps.operators,
        statistics=statistic_of(sae) != Statistic.NONE,
        latents=_latents(sae),
    )


def _latents(source: Source | Sae) -> tuple[LatentPlan, ...]:
    if isinstance(source, Sae) and source.needs_all_codes:
        return (latent_plan(source),)
    return ()


def _both(one: EditPlan, other: EditPlan) -> EditPlan:
    return EditPlan(
        rank=max(one.rank, other.rank),
        planes=one.planes or other.planes,
        diagonal=one.diagonal or other.diagonal,
        slerp=one.slerp or other.slerp,
        relative=one.relative or other.relative,
        restores_norm=one.restores_norm or other.restores_norm,
        statistics=one.statistics or other.statistics,
        latents=united(one.latents, other.latents),
    )


def _check_rank(needed: EditPlan, config: PilothouseConfig, tap: Tap, origin: str) -> None:
    if needed.rank > config.limits.max_rank:
        raise ConfigError(
            f"{origin}: at layer {tap.layer} it has {needed.rank} gated rows, allowed are "
            f"limits.max_rank = {config.limits.max_rank}: raise it, or use fewer operators"
        )
