"""Names, labels and buckets of every metric, closed sets of label values, and what counts them.

All counting happens in API processes, from records and answers: what an engine process counts
never reaches /metrics. With several API servers prometheus_client adds up the processes' files.
Label values come from closed sets; what is not in one becomes `other` and is counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final, Literal, get_args

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from pilothouse.policy.decide import outcome_result
from pilothouse.policy.endpoint_names import CHECK_PATHS, ENDPOINTS
from pilothouse.policy.rulebook import CompiledRule
from pilothouse.record import CHECK_ID, Decision, Record
from pilothouse.types import Result, SignalSpec

PREFIX: Final = "pilothouse_"

RequestAction = Literal["allow", "steer", "respond", "block", "reject", "deny", "error", "abort"]
"""How an HTTP request ended. The first four are of answers that left; `block` includes a
prompt verdict answered as 400. `reject`: refused at admission or before; `deny`: a route that is
not served; `error`: vLLM or the scheduler failed it; `abort`: the client went away."""

ReloadResult = Literal["loaded", "unchanged", "refused", "failed"]

UNSCORED_REASONS: Final = ("prefix_cache", "length_end", "preempted", "multimodal", "not_computed")


def _logit_buckets() -> tuple[float, ...]:
    """Return buckets that are even in log odds, as calibrated values are chances."""
    odds = (-6.9, -4.6, -3.5, -2.2, -1.4, -0.7, 0.0, 0.7, 1.4, 2.2, 3.5, 4.6, 6.9)
    return (*(round(1 / (1 + math.exp(-each)), 4) for each in odds), 1.0)


SCORE_BUCKETS: Final = _logit_buckets()
SECONDS_BUCKETS: Final = (1e-5, 1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric, as it is registered and documented."""

    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()
    multiprocess_mode: str = "mostrecent"


METRICS: Final[Mapping[str, MetricSpec]] = {
    "pilothouse_requests_total": MetricSpec(
        "counter",
        ("model_name", "endpoint", "tenant_class", "action"),
        "HTTP requests to governed and denied routes, each once, by what became of them",
    ),
    "pilothouse_decisions_total": MetricSpec(
        "counter", ("policy", "rule", "phase", "mode", "result"), "Evaluated rules, once per choice"
    ),
    "pilothouse_checks_total": MetricSpec(
        "counter",
        ("model_name", "contract", "tenant_class", "action"),
        "Calls of a check, each once, by the strongest of what was concluded; they are no requests",
    ),
    "pilothouse_check_decisions_total": MetricSpec(
        "counter",
        ("policy", "rule", "phase", "mode", "result"),
        "Rules evaluated on given texts, once per text, apart from those on requests",
    ),
    "pilothouse_probe_score": MetricSpec(
        "histogram",
        ("probe", "readout"),
        "Calibrated value of a readout at the end of each choice",
        SCORE_BUCKETS,
    ),
    "pilothouse_probe_tokens_total": MetricSpec(
        "counter", ("probe",), "Tokens that a probe scored"
    ),
    "pilothouse_unscored_tokens_total": MetricSpec(
        "counter", ("reason",), "Tokens that a request's probes should have scored and did not"
    ),
    "pilothouse_steered_tokens_total": MetricSpec(
        "counter", ("name",), "Tokens computed under a vector, asked for or by policy"
    ),
    "pilothouse_programs_active": MetricSpec(
        "gauge", (), "Steering programs that live requests use, told by the engine at each change"
    ),
    "pilothouse_program_waits_total": MetricSpec(
        "counter", (), "Choices that waited for a program slot"
    ),
    "pilothouse_policy_seconds": MetricSpec(
        "histogram", (), "Host time for folding and deciding, per choice", SECONDS_BUCKETS
    ),
    "pilothouse_hold_back_seconds": MetricSpec(
        "histogram", (), "Longest time a token of a choice was held back", SECONDS_BUCKETS
    ),
    "pilothouse_config_fingerprint": MetricSpec(
        "gauge", (), "The revision as a number: equal where the loaded plan is the same"
    ),
    "pilothouse_config_loaded_timestamp_seconds": MetricSpec(
        "gauge", (), "When the plan was loaded, Unix time"
    ),
    "pilothouse_reloads_total": MetricSpec(
        "counter", ("result",), "Reloads and loaded or unloaded vectors, by what came of them"
    ),
    "pilothouse_label_overflow_total": MetricSpec(
        "counter", ("label",), "Label values outside their closed set, counted as `other`"
    ),
}


class ClosedSet:
    """The closed set of values that one label may have."""

    def __init__(self, label: str, values: Iterable[str]) -> None:
        self.label = label
        self._values = frozenset(values)

    def add(self, values: Iterable[str]) -> None:
        """Add values; what was in the set stays, since series of it exist."""
        self._values |= frozenset(values)

    def value_or_other(self, value: str) -> str:
        """Return the value if it is in the set, else `other`."""
        return value if value in self._values else OTHER


def tenant_patterns(patterns: Iterable[str]) -> Callable[[str], str]:
    """Map a tenant to its class: the first pattern of a policy, but `*`, that holds for it."""
    classes = tuple(dict.fromkeys(each for each in patterns if each != "*"))[:MAX_TENANT_CLASSES]

    def tenant_class(tenant: str) -> str:
        if not tenant:
            return NO_TENANT
        return next((each for each in classes if fnmatchcase(tenant, each)), OTHER)

    return tenant_class


@dataclass(frozen=True, slots=True)
class LabelSources:
    """The values that labels may have."""

    model_names: Iterable[str]
    rules: Sequence[CompiledRule] = ()
    signals: Sequence[SignalSpec] = ()
    probes: Iterable[str] = ()
    vectors: Iterable[str] = ()
    tenants: Iterable[str] = field(default=("*",))
    """Every pattern under `match.tenants`; a tenant's class is the first that holds for it."""


class Metrics:
    """The counters of one API process.

    Args:
        sources: what the labels may be.
        registry: prometheus_client's default one, which is the one behind vLLM's /metrics.
    """

    def __init__(self, sources: LabelSources, registry: CollectorRegistry = REGISTRY) -> None:
        self._all = {name: _made(name, spec, registry) for name, spec in METRICS.items()}
        self._models = ClosedSet("model_name", sources.model_names)
        self._endpoints = ClosedSet("endpoint", ENDPOINTS)
        self._contracts = ClosedSet("contract", CHECK_PATHS)
        self._probes = ClosedSet("probe", sources.probes)
        self._readouts = ClosedSet("readout", (spec.key for spec in sources.signals))
        self._vectors = ClosedSet("name", sources.vectors)
        self._reasons = ClosedSet("reason", UNSCORED_REASONS)
        self._rules = ClosedSet("rule", (f"{rule.policy}/{rule.rule}" for rule in sources.rules))
        self._tenant_class = tenant_patterns(sources.tenants)
        self._show_zeros(sources)

    def loaded(
        self, revision: str, *, profiles: Iterable[str] = (), vectors: Iterable[str] = ()
    ) -> None:
        """Note that a plan was loaded now; its names are labels from here on."""
        self._models.add(profiles)
        self._vectors.add(vectors)
        self._all["pilothouse_config_fingerprint"].set(int(revision, 16))
        self._all["pilothouse_config_loaded_timestamp_seconds"].set(time.time())

    def reload(self, result: ReloadResult) -> None:
        """Count a reload that has ended."""
        self._all["pilothouse_reloads_total"].labels(result).inc()

    def request(
        self, model_name: str | None, endpoint: str, tenant: str, action: RequestAction
    ) -> None:
        """Count one HTTP request that has ended; a name that is none of ours counts as `other`."""
        model = OTHER if model_name is None else self._closed(self._models, model_name)
        self._all["pilothouse_requests_total"].labels(
            model, self._endpoints.value_or_other(endpoint), self._tenant_class(tenant), action
        ).inc()

    def check(
        self, model_name: str | None, contract: str, tenant: str, action: RequestAction
    ) -> None:
        """Count one call of a check that has ended."""
        model = OTHER if model_name is None else self._closed(self._models, model_name)
        self._all["pilothouse_checks_total"].labels(
            model, self._contracts.value_or_other(contract), self._tenant_class(tenant), action
        ).inc()

    def decisions(self, decisions: Iterable[Decision]) -> None:
        """Count the rules that were evaluated for one choice."""
        self._count_decisions("pilothouse_decisions_total", decisions)

    def check_decisions(self, decisions: Iterable[Decision]) -> None:
        """Count the rules that were evaluated on one text of a check."""
        self._count_decisions("pilothouse_check_decisions_total", decisions)

    def record(self, record: Record) -> None:
        """Count a record of this process; only the closing one of a choice counts.

        Of a check's, what it took counts; what was concluded, and the scores, which alerts on
        traffic look at, do not.
        """
        if not record.closing:
            return
        if not record.decision_id.startswith(CHECK_ID):
            self.decisions(record.decisions)
            for key, value in record.values.items():
                self._score(key, value)
        self._add("pilothouse_probe_tokens_total", self._probes, record.scored_tokens)
        self._add("pilothouse_unscored_tokens_total", self._reasons, record.unscored_tokens)
        self._add("pilothouse_steered_tokens_total", self._vectors, record.steered_tokens)
        if record.waited:
            self._all["pilothouse_program_waits_total"].inc()
        self._all["pilothouse_policy_seconds"].observe(record.policy_seconds)
        self._all["pilothouse_hold_back_seconds"].observe(record.hold_back_seconds)

    def programs(self, count: int) -> None:
        """Set how many steering programs are in use."""
        self._all["pilothouse_programs_active"].set(count)

    def _count_decisions(self, metric: str, decisions: Iterable[Decision]) -> None:
        for each in decisions:
            name = self._closed(self._rules, f"{each.policy}/{each.rule}")
            policy, rule = name.split("/", 1) if name != OTHER else (OTHER, OTHER)
            self._all[metric].labels(policy, rule, each.phase, each.mode, each.result).inc()

    def _score(self, key: str, value: float) -> None:
        name = self._closed(self._readouts, key)
        probe, readout = name.split("/", 1) if name != OTHER else (OTHER, OTHER)
        if math.isfinite(value):
            self._all["pilothouse_probe_score"].labels(probe, readout).observe(value)

    def _add(self, metric: str, allowed: ClosedSet, counts: Mapping[str, int]) -> None:
        for name, count in counts.items():
            self._all[metric].labels(self._closed(allowed, name)).inc(count)

    def _closed(self, allowed: ClosedSet, value: str) -> str:
        found = allowed.value_or_other(value)
        if found == OTHER:
            self._all["pilothouse_label_overflow_total"].labels(allowed.label).inc()
        return found

    def _show_zeros(self, sources: LabelSources) -> None:
        """Make the series that alerts look at, so that a first event is a rise from zero."""
        for rule in sources.rules:
            for result in _results_of(rule):
                self._all["pilothouse_decisions_total"].labels(
                    rule.policy, rule.rule, rule.phase, rule.mode, result
                )
        for result in get_args(ReloadResult):
            self._all["pilothouse_reloads_total"].labels(result)
        for reason in UNSCORED_REASONS:
            self._all["pilothouse_unscored_tokens_total"].labels(reason)
        for spec in sources.signals:
            self._all["pilothouse_probe_score"].labels(*spec.key.split("/", 1))


def _results_of(rule: CompiledRule) -> tuple[Result, ...]:
    """Return the results that a rule can have in its policy's own mode."""
    fired = outcome_result(rule.kind, rule.mode, True, False, rule.on_error)
    missing = outcome_result(rule.kind, rule.mode, False, True, rule.on_error)
    return "allowed", "bypassed" if rule.mode == "shadow" else missing, fired


def _made(name: str, spec: MetricSpec, registry: CollectorRegistry) -> Any:
    if spec.kind == "counter":
        return Counter(name, spec.help, spec.labels, registry=registry)
    if spec.kind == "histogram":
        return Histogram(name, spec.help, spec.labels, registry=registry, buckets=spec.buckets)
    return Gauge(
        name, spec.help, spec.labels, registry=registry, multiprocess_mode=spec.multiprocess_mode
    )


OTHER: Final = "other"
NO_TENANT: Final = "none"
MAX_TENANT_CLASSES: Final = 50
