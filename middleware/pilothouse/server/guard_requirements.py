"""Which enforced rules can act on a request, worked out once per set of applied policies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pilothouse.errors import ConfigError
from pilothouse.policy.rulebook import Rulebook
from pilothouse.signed_request import AppliedPolicy

if TYPE_CHECKING:
    from pilothouse.engine.plan.plan import Plan


@dataclass(frozen=True, slots=True)
class GuardRequirements:
    """What the enforced rules of one request need of the gate."""

    applied: tuple[AppliedPolicy, ...]
    holds_start: bool
    """A prompt rule may answer with an HTTP error, so headers wait for its verdict."""
    buffers: bool
    """A final rule may end the answer, so nothing of it leaves before its end."""
    ends_output: bool
    """Some rule may end the answer after generation began."""

    scores_answers: tuple[AppliedPolicy, ...] = ()
    """Policies whose prompt rules are judged again over each answer."""

    @property
    def ends(self) -> bool:
        """Some rule may end the answer, at one time or another."""
        return self.holds_start or self.ends_output


class RequirementsCache:
    """`GuardRequirements` by applied policies, memoised: there are few distinct sets."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._rules = rulebook.rules
        self._scoring = {each.name for each in rulebook.policies if each.spec.score_answers}
        self._known: dict[tuple[AppliedPolicy, ...], GuardRequirements] = {}

    def of(self, applied: Iterable[AppliedPolicy]) -> GuardRequirements:
        """The exposure under these policies."""
        key = tuple(applied)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._worked_out(key)
        return found

    def _worked_out(self, applied: tuple[AppliedPolicy, ...]) -> GuardRequirements:
        names = {each.name for each in applied if each.enforced}
        phases = {rule.phase for rule in self._rules if rule.policy in names and rule.ends}
        return GuardRequirements(
            applied=applied,
            holds_start="prompt" in phases,
            buffers="final" in phases,
            ends_output=not phases.isdisjoint(("output", "final")),
            scores_answers=tuple(
                each for each in applied if each.enforced and each.name in self._scoring
            ),
        )


def refuse_scored_answers(plan: Plan, reason: str) -> None:
    """Stop a start where answers cannot be brought as a user's turn.

    Raises:
        ConfigError: an enforced policy asks for it.
    """
    asking = [each.name for each in plan.policies if each.spec.score_answers]
    if asking:
        raise ConfigError(
            f"policy {asking[0]}: spec.score_answers cannot take effect: {reason}, or remove it"
        )
