"""Features that rules log: which they are, where their codes are read, and which rule tells which.

Shape suffixes: D width of the tap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.edits.feature import labelled
from pilothouse.edits.sae import FeatureRead, check_feature, feature_read
from pilothouse.engine.plan.read_rows import OwnedCode, OwnedRow, Read
from pilothouse.engine.plan.spec import LoggedSae
from pilothouse.engine.worker.sae_weights import resident_sae
from pilothouse.errors import ConfigError, RequestError
from pilothouse.policy.rulebook import CompiledRule
from pilothouse.policy.schema import MAX_LOGGED_FEATURES, Log, LoggedFeatures

if TYPE_CHECKING:
    from pilothouse.engine.plan.plan import Plan
    from pilothouse.policy.schema import Policy

LARGEST = float(np.finfo(np.float32).max)
"""Over its negative every code is, which is what it is; over itself none."""


class LoggedFeature(NamedTuple):
    """One feature as a column: of its row, or of its code where that hangs on all others."""

    feature: int
    label: str | None
    row: FeatureRead | None


@dataclass(frozen=True, slots=True)
class LoggingRule:
    """A rule and what it tells when it fires."""

    rule: CompiledRule
    sae: str
    features: tuple[int, ...]
    top: int


def feature_reads(
    policies: Sequence[Policy], saes: Mapping[str, Sae]
) -> dict[str, tuple[LoggedFeature, ...]]:
    """Collect every feature that some rule logs, by SAE, each once, in ascending order.

    Raises:
        ConfigError: names policy and rule: an SAE or feature that does not exist, none or more
            than `MAX_LOGGED_FEATURES` of them.
    """
    wanted: dict[str, dict[int, LoggedFeature]] = {}
    for policy in policies:
        for rule in policy.spec.rules:
            if isinstance(rule.then, Log) and rule.then.features is not None:
                asked = rule.then.features
                try:
                    found = _reads(asked, saes)
                except RequestError as error:
                    origin = f"policy {policy.name}, rule {rule.id}"
                    raise ConfigError(f"{origin}: features: {error}") from error
                wanted.setdefault(asked.sae, {}).update(found)
    return {sae: tuple(each for _, each in sorted(reads.items())) for sae, reads in wanted.items()}


def owner_of(sae: str) -> str:
    """Name the owner of an SAE's rows beside those of probes, whose names have no slash."""
    return f"sae/{sae}"


def logged_reads(
    logged: Mapping[str, Sequence[LoggedFeature]], saes: Mapping[str, Sae]
) -> list[Read]:
    """Return the rows and codes of all logged features."""
    return [
        _owned(saes[sae], owner_of(sae), each) for sae, reads in logged.items() for each in reads
    ]


def logging_rules(plan: Plan) -> tuple[LoggingRule, ...]:
    """Return the rules of a plan that tell features."""
    return tuple(
        LoggingRule(rule, asked.sae, tuple(_known(asked, facts)), asked.top)
        for rule in plan.rulebook.rules
        if isinstance(rule.action, Log) and (asked := rule.action.features) is not None
        for facts in plan.body.logged
        if facts.sae == asked.sae
    )


def logged_sae(sae: str, reads: Sequence[LoggedFeature], columns: Sequence[int]) -> LoggedSae:
    """Return what host code needs of the features, which are read at these columns."""
    return LoggedSae(
        sae=sae,
        columns=tuple(columns),
        features=tuple(each.feature for each in reads),
        biases=tuple(0.0 if each.row is None else each.row.bias for each in reads),
        # A feature that can never be on has no finite threshold, and JSON no infinity.
        thresholds=tuple(
            -LARGEST if each.row is None else min(each.row.threshold, LARGEST) for each in reads
        ),
        labels=tuple(each.label for each in reads),
    )


def _reads(asked: LoggedFeatures, saes: Mapping[str, Sae]) -> dict[int, LoggedFeature]:
    sae = saes.get(asked.sae)
    if sae is None:
        raise RequestError(f"sae: got {asked.sae!r}, want one of {sorted(saes)}")
    named = asked.of or tuple(sorted(sae.labels))
    if not named:
        raise RequestError(
            f"SAE {asked.sae!r} has no labels, which is what is logged by default: list features "
            "with `of: [...]`"
        )
    features = {each if isinstance(each, int) else labelled(each, sae) for each in named}
    if len(features) > MAX_LOGGED_FEATURES:
        raise RequestError(
            f"got {len(features)} features, want at most {MAX_LOGGED_FEATURES}: list those that "
            "matter with `of: [...]`"
        )
    return {each: _read(sae, each) for each in features}


def _read(sae: Sae, feature: int) -> LoggedFeature:
    check_feature(sae, feature)
    row = None if sae.needs_all_codes else feature_read(sae, feature)
    return LoggedFeature(feature, sae.labels.get(feature), row)


def _owned(sae: Sae, owner: str, logged: LoggedFeature) -> Read:
    if logged.row is None:
        return OwnedCode(owner, sae.tap, resident_sae(sae), logged.feature)
    row_D = logged.row.read_D.astype(np.float32)
    return OwnedRow(owner, sae.tap, row_D, logged.row.statistic)


def _known(asked: LoggedFeatures, facts: LoggedSae) -> Iterator[int]:
    for feature, label in zip(facts.features, facts.labels, strict=True):
        named = label is not None if asked.of is None else feature in asked.of or label in asked.of
        if named:
            yield feature
