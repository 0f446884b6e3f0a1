"""Enforced rules that end requests, and the settings and other rules around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pilothouse.config import Auth
from pilothouse.policy.check import condition_of
from pilothouse.policy.expression import Node, leaves
from pilothouse.policy.matching import holds_for
from pilothouse.policy.schema import Block, Policy, Respond, Rule
from pilothouse.types import Phase, SignalSpec
from pilothouse.validation_errors import Location, Severity

Specs = Mapping[str, Mapping[str, SignalSpec]]
"""Readouts by policy and by its name for a signal; empty where what is loaded is not known."""
DoorName = Literal[
    "endpoint",
    "tenant",
    "profile",
    "model",
    "nobody",
    "rollout",
    "client-scores",
    "client-steering",
    "prompt-read-late",
    "last-token",
    "mean",
    "exception",
    "no-template",
    "own-words",
    "adapters",
    "pictures",
    "gate-allow",
    "metrics",
    "on-error",
]
"""Kinds of doors; docs/explanation/security.md says of each when it is open."""
Dimension = Literal["tenants", "models", "profiles", "endpoints"]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Settings of a server that decide which doors are open; None where one is not known."""

    auth: Auth | None = None
    for_this_machine: bool = False
    """Grants are for callers on the server's own machine, as in the demo."""
    profiles: frozenset[str] | None = None
    served_names: tuple[str, ...] | None = None
    adapters: tuple[str, ...] = ()
    has_keys: bool | None = None
    renders_chats: bool | None = None
    takes_pictures: bool | None = None
    has_metrics: bool | None = None
    opened: tuple[str, ...] = ()
    """Routes that change the running server and that `gate.allow` opens."""


@dataclass(frozen=True, slots=True)
class OpenDoor:
    """One way round one rule.

    Attributes:
        name: of the kind of door, as in docs/explanation/security.md.
        rule: `policy/rule`.
        at: the place in the policy's file to look at.
        severity: `warning` where a client alone can go through and a setting closes it, else
            `note`: a scope that was chosen, or what no setting closes.
    """

    name: DoorName
    rule: str
    at: Location
    reason: str
    remedy: str
    severity: Severity


@dataclass(frozen=True, slots=True)
class EndingRule:
    """An enforced rule that ends requests."""

    policy: Policy
    index: int
    specs: Mapping[str, SignalSpec]

    @property
    def rule(self) -> Rule:
        """The rule as the policy has it."""
        return self.policy.spec.rules[self.index]

    @property
    def root(self) -> Node | None:
        """Its condition; None where that cannot be read."""
        condition = condition_of(self.rule)
        return None if condition is None else condition.root

    @property
    def read(self) -> list[SignalSpec]:
        """The readouts that it reads; none unless all are known."""
        names = () if self.root is None else {leaf.signal for leaf in leaves(self.root)}
        return [self.specs[name] for name in names] if self.specs.keys() >= set(names) else []

    @property
    def probes(self) -> frozenset[str]:
        """The probes that it reads, by the names under which they are loaded."""
        signals = self.policy.spec.signals
        used = () if self.root is None else [leaf.signal for leaf in leaves(self.root)]
        return frozenset(signals[name].probe for name in used if name in signals)

    def patterns(self, dimension: Dimension) -> tuple[str, ...]:
        """Return whom the rule is for."""
        found: tuple[str, ...] = getattr(self.policy.spec.match, dimension)
        return found

    def door(
        self, name: DoorName, at: Location, reason: str, remedy: str, severity: Severity = "warning"
    ) -> OpenDoor:
        """Make a way round it; at the rule where no field is to blame."""
        key = f"{self.policy.name}/{self.rule.id}"
        return OpenDoor(name, key, at or ("spec", "rules", self.index), reason, remedy, severity)


@dataclass(frozen=True, slots=True)
class EndingRules:
    """All rules that end requests, and the settings around them."""

    rules: Sequence[EndingRule]
    around: Surroundings

    def stands_in(
        self,
        mine: EndingRule,
        fits: Callable[[EndingRule], bool],
        *,
        differs: Dimension | None = None,
    ) -> bool:
        """Tell whether another rule that `fits` is in force for everyone, wherever `mine` is."""
        dimensions: tuple[Dimension, ...] = ("tenants", "models", "profiles", "endpoints")
        return any(
            other is not mine
            and other.policy.spec.rollout_percent == 100
            and all(
                "*" in other.patterns(each) or other.patterns(each) == mine.patterns(each)
                for each in dimensions
                if each != differs
            )
            and fits(other)
            for other in self.rules
        )

    def same_elsewhere(self, mine: EndingRule, dimension: Dimension, value: str) -> bool:
        """Tell whether a rule like `mine` holds where `mine` does not."""
        return self.stands_in(
            mine,
            lambda other: (
                other.rule.phase == mine.rule.phase
                and other.probes <= mine.probes
                and holds_for(other.patterns(dimension), value)
            ),
            differs=dimension,
        )

    def same_in_phase(self, mine: EndingRule, phase: Phase) -> bool:
        """Tell whether a rule like `mine` is judged in another phase too."""
        return self.stands_in(
            mine, lambda other: other.rule.phase == phase and other.probes <= mine.probes
        )

    def has_output_half(self, mine: EndingRule) -> bool:
        """Tell whether answers are read too, by `mine` or by a rule of its category."""
        return mine.policy.spec.score_answers or self.stands_in(
            mine,
            lambda other: (
                other.rule.phase != "prompt"
                and other.policy.metadata.category == mine.policy.metadata.category
                and any(spec.scope != "prompt" for spec in other.read)
            ),
        )


def ending_rules(policies: Iterable[Policy], specs: Specs, around: Surroundings) -> EndingRules:
    """Collect the enforced rules of some policies that end requests, in their order."""
    rules = [
        EndingRule(policy, index, specs.get(policy.name, {}))
        for policy in policies
        if policy.spec.mode == "enforce" and policy.spec.rollout_percent > 0
        for index, rule in enumerate(policy.spec.rules)
        if isinstance(rule.then, Block | Respond)
    ]
    return EndingRules(rules, around)
