"""Checks of a plan and of steering: each refuses what cannot take effect or is out of bounds.

As a plan is made: artifacts match the served model (`check_model_match`) and agree on how wide each
tap is (`tap_widths`), and heads of probes read and keep no more than limits allow
(`check_head_cost`). For a profile or a request: its edits have tables (`capacity_problem`) and do
not overflow (`overflow_problem`), stay within `limits.max_norm_ratio` (`check_norm_limit`), and do
not lie below a layer that an enforced rule reads (`check_read_layers`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pilothouse.artifacts.catalog import Catalog, Source
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.config import PilothouseConfig
from pilothouse.edits.operators import features_of, places_of
from pilothouse.edits.program import Program, compile_program, growth
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.spec import ModelFacts
from pilothouse.engine.plan.steering_cost import CLAUSES, refuse_cost
from pilothouse.engine.plan.tap_plan import EditPlan, TapPlan
from pilothouse.engine.scheduler.head_pools import HeadPools
from pilothouse.errors import ConfigError, RequestError
from pilothouse.policy.rulebook import Rulebook
from pilothouse.term import SteerTerm
from pilothouse.types import PROJECTION_SITES, Tap

if TYPE_CHECKING:
    from pilothouse.artifacts.probe import Probe


def check_model_match(config: PilothouseConfig, catalog: Catalog, model: ModelFacts) -> None:
    """Refuse artefacts of another model or width, and layers that the model lacks.

    Raises:
        ConfigError: a line for each.
    """
    problems = []
    names = {config.model_id or model.model_id, config.model_id or Path(model.model_id).name}
    kinds: Sequence[tuple[str, Mapping[str, Source | Probe | Sae]]] = (
        ("vectors", catalog.vectors),
        ("probes", catalog.probes),
        ("saes", catalog.saes),
    )
    for kind, loaded in kinds:
        for name, each in loaded.items():
            if each.model_id not in names:
                problems.append(
                    f"{kind}.{name}: made for {each.model_id}; served is {model.model_id}: load "
                    "one made for this model or, where both are the same weights, say so with "
                    f"`model_id: {each.model_id}` in pilothouse.yaml"
                )
            width = _stream_width(each)
            if width not in (None, model.d_model):
                problems.append(
                    f"{kind}.{name}: made for {each.model_id} of width {width}; "
                    f"{model.model_id} has width {model.d_model}: load one made for this model"
                )
            outside = [layer for layer in each.layers if layer >= model.num_layers]
            if outside:
                problems.append(
                    f"{kind}.{name}: layers {outside} do not exist; {model.model_id} has "
                    f"{model.num_layers} layers: use 0..{model.num_layers - 1}"
                )
    for site, layers in config.taps.by_site().items():
        last = 0 if site == "embed" else model.num_layers - 1
        outside = [layer for layer in layers if layer > last]
        if outside:
            problems.append(f"taps.{site}: layers {outside} do not exist; use 0..{last}")
    if problems:
        raise ConfigError("\n".join(problems))


def _stream_width(loaded: Source | Probe | Sae) -> int | None:
    """Of the model it was made for; an SAE of a projection's input does not tell."""
    if isinstance(loaded, Sae):
        return None if loaded.site in PROJECTION_SITES else loaded.width
    return loaded.d_model


def check_norm_limit(terms: Sequence[SteerTerm], plan: Plan, *, origin: str) -> None:
    """Check a request's or a profile's steering as a whole.

    Raises:
        RequestError: terms that cost too much, do not fit together, need what no tap has, overflow,
            or are over `limits.max_norm_ratio`; the message begins with `origin`.
    """
    refuse_cost(terms, plan.sources, plan.body.limits, origin=origin)
    limit = plan.body.limits.max_norm_ratio
    for clause in CLAUSES:
        holding = tuple(term for term in terms if term.on in (clause, "all"))
        try:
            program = compile_program(holding, plan.sources)
            if program is None:
                continue
            problem = capacity_problem(program, plan.taps()) or overflow_problem(program)
            bounds = growth(holding, plan.sources)
        except RequestError as error:
            raise RequestError(f"{origin}: {error}", param=origin) from error
        if problem is not None:
            raise RequestError(f"{origin}: {problem}", param=origin)
        for tap, ratio in bounds.items():
            if not ratio <= limit:
                raise RequestError(
                    f"{origin}: on {clause} tokens at layer {tap.layer} got an edit of {ratio:.3g} "
                    f"times the mean residual norm, want at most {limit:g} "
                    "(limits.max_norm_ratio); use a smaller scale",
                    param=origin,
                )


def refuse_unreserved(term: SteerTerm, plan: Plan, place: str) -> None:
    """Check that an operator a client asks for is one that clients were given.

    Raises:
        RequestError: it is not listed under `taps.operators`; names the field.
    """
    wanted = features_of(term, plan.sources.of(term))
    for name, feature in wanted.items():
        if feature not in plan.body.operators:
            raise RequestError(
                f"{place}.{name}: got {feature!r}, available are {list(plan.body.operators)}; the "
                "operator of the server lists more under taps.operators",
                param=f"{place}.{name}",
            )


def check_head_cost(plan: Plan) -> None:
    """Check what probes read of a token, and what their heads keep of a request.

    Raises:
        ConfigError: more columns than `limits.max_read_columns`, or more memory than
            `limits.max_head_state_kib`.
    """
    limits, probes = plan.body.limits, plan.body.probes
    columns = {name: len(each.columns) for name, each in probes.items()}
    total = sum(columns.values())
    if total > limits.max_read_columns:
        widest = max(columns, key=lambda name: columns[name])
        raise ConfigError(
            where="limits.max_read_columns",
            got=f"{total} numbers of each token for {len(columns)} probes, {columns[widest]} of "
            f"them for {widest!r}",
            want=f"at most {limits.max_read_columns}",
            fix="raise it, or load probes of fewer heads or layers",
        )
    states = {
        name: HeadPools({name: each}, [s for s in plan.signals if s.probe == name]).state_bytes
        for name, each in probes.items()
    }
    num_bytes = sum(states.values())
    if num_bytes > limits.max_head_state_kib * 1024:
        largest = max(states, key=lambda name: states[name])
        raise ConfigError(
            where="limits.max_head_state_kib",
            got=f"{num_bytes / 1024:.1f} KiB for each request, {states[largest] / 1024:.1f} of "
            f"them for {largest!r}",
            want=f"at most {limits.max_head_state_kib} KiB",
            fix="raise it, or load probes of fewer heads, a shorter window or fewer scopes",
        )


def capacity_problem(program: Program, taps: Mapping[Tap, TapPlan]) -> str | None:
    """Return what is missing and what to do; None where everything is there."""
    for tap, edit in program.layers.items():
        plan = taps.get(tap)
        if plan is None or plan.edits is None:
            return f"layer {tap.layer} has no edit table at {tap.site}: add it to `taps`"
        missing = plan.edits.lacks(EditPlan.needed_by(edit))
        if missing is not None:
            return (
                f"at layer {tap.layer} the edit needs {missing}; list the operator under "
                "`taps.operators`, or raise `limits.max_rank`"
            )
    return None


LARGEST_EDIT = 1e18
"""Beyond it sums of squares overflow float32."""


def overflow_problem(program: Program) -> str | None:
    """Return what is wrong with a program's size; None when it is in bounds."""
    for tap, edit in program.layers.items():
        reached = max(each.largest() for each in edit.tables)
        largest = max(1.0, abs(program.coefficient)) * reached
        if not largest < LARGEST_EDIT:
            return (
                f"at layer {tap.layer} the edit reaches {largest:.1e}; the engine takes less than "
                f"{LARGEST_EDIT:.0e}: lower the scale"
            )
    return None


def enforced_read_layers(rulebook: Rulebook, policies: Collection[str]) -> Mapping[str, str]:
    """Probe -> policy, of every probe that a rule of an enforced policy reads.

    Args:
        rulebook: with all rules of the plan.
        policies: those that may hold for the request or the profile in question.
    """
    probe_of = {spec.key: spec.probe for spec in rulebook.signals}
    return {
        probe_of[key]: rule.policy
        for rule in rulebook.rules
        if rule.mode == "enforce" and rule.policy in policies
        for key in rule.signals
    }


def check_read_layers(
    terms: Sequence[SteerTerm], plan: Plan, enforced: Mapping[str, str], *, origin: str
) -> None:
    """Check a request's or a profile's steering.

    Raises:
        RequestError: a term edits below a layer that an enforced rule's probe reads.
    """
    for term in terms:
        edited = [tap for tap, _ in places_of(term, plan.sources)]
        for probe, policy in enforced.items():
            facts = plan.body.probes[probe]
            read = Tap(max(facts.layers), facts.site)
            below = sorted({each.layer for each in edited if each.depth < read.depth})
            if below and not facts.evaluated_under_steering:
                sites = " and ".join(sorted({each.site for each in edited}))
                raise RequestError(
                    f"{origin}: {term.name!r} edits {sites} at layers {below}, "
                    f"below {read.site} of layer {read.layer} where probe {probe!r} of the "
                    f"enforced policy {policy!r} reads: steer at layer {read.layer} or above",
                    param="pilothouse.steer",
                )


def tap_widths(
    taps: Iterable[Tap], catalog: Catalog, model: ModelFacts, running: Plan | None
) -> dict[Tap, int]:
    """Return elements of a token at each tap, on all ranks together; workers check it.

    A tap that is reserved with nothing loaded there is as wide as the model's configuration says.

    Raises:
        ConfigError: two artefacts disagree, one does not fit a running tap, or nothing tells.
    """
    known = {
        each.tap: ("the running server", each.width)
        for each in (running.body.taps if running else ())
    }
    for each in (
        *catalog.vectors.values(),
        *catalog.probes.values(),
        *catalog.saes.values(),
    ):
        for layer in each.layers:
            tap = Tap(layer, each.site)
            other, width = known.setdefault(tap, (each.name, each.width))
            if width != each.width:
                raise ConfigError(
                    f"{each.name}: of width {each.width} at {tap.site} of layer {layer}, where "
                    f"{other} has {width}: load artefacts that were made for this model"
                )
    return {tap: known[tap][1] if tap in known else _of_model(tap, model) for tap in taps}


def _of_model(tap: Tap, model: ModelFacts) -> int:
    if tap.site not in PROJECTION_SITES:
        return model.d_model
    if tap.site not in model.projection_widths:
        raise ConfigError(
            f"taps.{tap.site}: {model.model_id}'s configuration does not say how wide {tap.site} "
            "is: load a vector or probe there at start, which does"
        )
    return model.projection_widths[tap.site]
