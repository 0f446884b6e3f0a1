"""Resolves the names in a policy to the probes, readouts, thresholds and artefacts loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from pilothouse.aggregate import exact, parameters_of
from pilothouse.policy.check import condition_of, scope_fault
from pilothouse.policy.expression import And, AtFpr, Comparison, Node, Not, Or, leaves
from pilothouse.policy.schema import Log, LoggedFeatures, Policy, SignalRef, Steer
from pilothouse.types import Aggregate, Scope, SignalSpec
from pilothouse.validation_errors import Location, Problem, closest, problem_at


@dataclass(frozen=True, slots=True)
class Artefacts:
    """The artefacts that are loaded, as far as a policy can name them.

    Attributes:
        signals: readouts by their key `probe/readout`.
        default_readouts: readout by probe, for policies that name none.
        vectors: layers by vector; None where vectors are not known.
        saes: layers by SAE; None where SAEs are not known.
    """

    signals: Mapping[str, SignalSpec]
    default_readouts: Mapping[str, str]
    vectors: Mapping[str, Collection[int]] | None
    saes: Mapping[str, Collection[int]] | None = None

    def readouts_of(self, probe: str) -> list[str]:
        """Return the readouts of a probe, sorted."""
        return sorted(
            key.removeprefix(f"{probe}/")
            for key, spec in self.signals.items()
            if spec.probe == probe
        )


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a policy's own names stand for.

    Attributes:
        signals: the spec of each signal name.
        roots: the condition of each rule id, with every `at fpr` a comparison.
        problems: what could not be resolved; if there is an error the rest is partial.
    """

    signals: Mapping[str, SignalSpec]
    roots: Mapping[str, Node]
    problems: tuple[Problem, ...]


def resolve_policy(policy: Policy, artefacts: Artefacts) -> Resolved:
    """Resolve a policy over what is loaded; collects all that is wrong instead of raising."""
    signals: dict[str, SignalSpec] = {}
    faults: list[tuple[Location, str]] = []
    for name, ref in policy.spec.signals.items():
        found = _signal(ref, artefacts)
        if isinstance(found, SignalSpec):
            signals[name] = found
        else:
            faults.append((("spec", "signals", name, found[0]), found[1]))
    roots: dict[str, Node] = {}
    for index, rule in enumerate(policy.spec.rules):
        condition = condition_of(rule)
        if condition is None:
            continue
        at: Location = ("spec", "rules", index, "when")
        found_faults = list(_condition_faults(condition.root, signals, rule.phase))
        faults.extend((at, text) for text in found_faults)
        if not found_faults and all(leaf.signal in signals for leaf in leaves(condition.root)):
            roots[rule.id] = _bounded(condition.root, signals)
        if isinstance(rule.then, Steer):
            faults.extend(_steer_faults(rule.then, index, artefacts))
        elif isinstance(rule.then, Log) and rule.then.features is not None:
            faults.extend(_log_faults(rule.then.features, index, artefacts))
    return Resolved(
        signals, roots, tuple(problem_at(policy.source, at, text) for at, text in faults)
    )


def ad_hoc_spec(probe: str, scope: Scope, aggregate: Aggregate, head: str = "linear") -> SignalSpec:
    """Return an uncalibrated reading of a probe: value = sigmoid(aggregated logit)."""
    given = [exact(each) for each in parameters_of(aggregate).values() if each is not None]
    tail = f".{','.join(given)}" if given else ""
    key = f"{probe}/~{scope}.{aggregate.kind}{tail}"
    return SignalSpec(key, probe, scope, aggregate, 1.0, 0.0, calibrated=False, head=head)


def _signal(ref: SignalRef, artefacts: Artefacts) -> SignalSpec | tuple[str, str]:
    probes = {spec.probe: spec.head for spec in artefacts.signals.values()}
    if ref.probe not in probes:
        return "probe", f"got the probe `{ref.probe}`, which is not loaded; " + closest(
            ref.probe, probes
        )
    if ref.over is not None and ref.aggregate is not None:
        return ad_hoc_spec(ref.probe, ref.over, ref.aggregate.spec, probes[ref.probe])
    readouts = artefacts.readouts_of(ref.probe)
    readout = ref.readout or artefacts.default_readouts.get(ref.probe)
    if readout is None and len(readouts) == 1:
        readout = readouts[0]
    if readout is None:
        return "probe", (
            f"probe `{ref.probe}` has several readouts: add `readout:` with one of "
            f"{', '.join(readouts)}"
        )
    spec = artefacts.signals.get(f"{ref.probe}/{readout}")
    if spec is None:
        return "readout", (
            f"probe `{ref.probe}` has no readout `{readout}`; {closest(readout, readouts)}"
        )
    return spec


def _condition_faults(root: Node, signals: Mapping[str, SignalSpec], phase: str) -> Iterator[str]:
    for leaf in dict.fromkeys(leaves(root)):
        spec = signals.get(leaf.signal)
        if spec is None:
            continue
        if phase == "prompt" and (why := scope_fault(leaf.signal, spec.scope, "prompt")):
            yield why
        if isinstance(leaf, AtFpr) and _threshold(leaf, spec) is None:
            rates = ", ".join(f"{fpr:g}" for fpr, _ in sorted(spec.thresholds))
            remedy = f"use one of {rates}" if rates else "compare with a number, as in `>= 0.5`"
            yield (
                f"`{leaf.signal} at fpr {leaf.fpr:g}`: {spec.key} has no threshold for that "
                f"rate: {remedy}"
            )


def _steer_faults(steer: Steer, index: int, artefacts: Artefacts) -> Iterator[tuple[Location, str]]:
    at: Location = ("spec", "rules", index, "then")
    kind, word = ("vector", "vector") if steer.sae is None else ("sae", "SAE")
    loaded = artefacts.vectors if steer.sae is None else artefacts.saes
    if loaded is None:
        return
    if steer.name not in loaded:
        known = closest(steer.name, loaded)
        yield (*at, kind), f"got the {word} `{steer.name}`, which is not loaded; {known}"
        return
    has = sorted(loaded[steer.name])
    missing = sorted(set(steer.layers or ()) - set(has))
    if missing:
        yield (*at, "layers"), f"{word} `{steer.name}` has no layer {missing}: choose from {has}"


def _log_faults(
    features: LoggedFeatures, index: int, artefacts: Artefacts
) -> Iterator[tuple[Location, str]]:
    if artefacts.saes is not None and features.sae not in artefacts.saes:
        known = closest(features.sae, artefacts.saes)
        text = f"got the SAE `{features.sae}`, which is not loaded; {known}"
        yield ("spec", "rules", index, "then", "features", "sae"), text


def _threshold(leaf: AtFpr, spec: SignalSpec) -> float | None:
    return next((value for fpr, value in spec.thresholds if fpr == leaf.fpr), None)


def _bounded(node: Node, signals: Mapping[str, SignalSpec]) -> Node:
    """Return the same tree with each `at fpr` as `>= threshold`."""
    match node:
        case AtFpr():
            value = _threshold(node, signals[node.signal])
            assert value is not None, "checked by _condition_faults"
            return Comparison(node.signal, ">=", value)
        case Not():
            return Not(_bounded(node.operand, signals))
        case And():
            return And(tuple(_bounded(part, signals) for part in node.parts))
        case Or():
            return Or(tuple(_bounded(part, signals) for part in node.parts))
        case Comparison():
            return node
