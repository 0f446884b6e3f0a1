"""Checks policies before they are served: errors, warnings, and what can leave."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pilothouse.policy.cases import CASES_FILE, load_cases
from pilothouse.policy.check import condition_of
from pilothouse.policy.discovery import POLICY_FILE, find_policies
from pilothouse.policy.ending_rules import Surroundings
from pilothouse.policy.expression import leaves
from pilothouse.policy.loader import PolicyFileError, load_policy, repeated_names
from pilothouse.policy.open_doors import open_doors
from pilothouse.policy.resolve import Artefacts, Resolved, resolve_policy
from pilothouse.policy.schema import Block, Policy, Respond, Rule, Steer
from pilothouse.validation_errors import Location, Problem, problem_at


def lint(
    paths: Iterable[Path],
    artefacts: Artefacts | None = None,
    around: Surroundings | None = None,
) -> tuple[Problem, ...]:
    """Return everything to say about the policies under some paths, sorted by file and line.

    Args:
        paths: as for `load_policies`.
        artefacts: what the server loads; None leaves probes, readouts, thresholds and vectors
            unchecked.
        around: what of the server's settings is known, for the ways that they leave open round
            enforced rules.

    Returns:
        Errors (the policy cannot be served), warnings (it can, but look), notes (what it costs).
    """
    problems: list[Problem] = []
    policies: list[Policy] = []
    found = find_policies(paths)
    problems += found.problems
    for file in found.files:
        try:
            policies.append(load_policy(file))
        except PolicyFileError as error:
            problems += error.problems
    problems += repeated_names(policies)
    problems += _double_steering(policies)
    for policy in policies:
        problems += _of_policy(policy, artefacts)
    problems += _open_doors(policies, artefacts, around or Surroundings())
    return tuple(sorted(dict.fromkeys(problems)))


def _of_policy(policy: Policy, artefacts: Artefacts | None) -> Iterator[Problem]:
    if artefacts is not None:
        resolved = resolve_policy(policy, artefacts)
        yield from resolved.problems
        yield from _constant_streams(policy, resolved)
    yield from _surroundings(policy)
    yield from _certainty(policy)
    if policy.spec.score_answers:
        yield problem_at(
            policy.source,
            ("spec", "score_answers"),
            "keeps every answer back until it ends, and scores it as a user's turn, alone and "
            "behind the question",
            "note",
        )
    for index, rule in enumerate(policy.spec.rules):
        yield from _what_can_leave(policy, rule, ("spec", "rules", index))


def _open_doors(
    policies: Sequence[Policy], artefacts: Artefacts | None, around: Surroundings
) -> Iterator[Problem]:
    sources = {policy.name: policy.source for policy in policies}
    specs = {
        policy.name: resolve_policy(policy, artefacts).signals if artefacts else {}
        for policy in policies
    }
    for door in open_doors(policies, specs, around):
        text = f"can be walked round ({door.name}): {door.reason}; {door.remedy}"
        yield problem_at(sources[door.rule.split("/")[0]], door.at, text, door.severity)


def _surroundings(policy: Policy) -> Iterator[Problem]:
    file = Path(policy.source.file)
    # As the operator wrote it: where links lead has names that are not his.
    folder = Path(os.path.abspath(file)).parent.name
    if file.name == POLICY_FILE and folder != policy.name:
        text = f"the folder is called {folder!r}: give both one name"
        yield problem_at(policy.source, ("metadata", "name"), text, "warning")
    cases = file.parent / CASES_FILE
    if not cases.exists():
        text = f"no {CASES_FILE} beside it: write what must fire and what must not"
        yield problem_at(policy.source, (), text, "warning")
        return
    try:
        load_cases(cases, policy)
    except PolicyFileError as error:
        yield from error.problems


def _certainty(policy: Policy) -> Iterator[Problem]:
    spec = policy.spec
    ends = any(isinstance(rule.then, Block | Respond) for rule in spec.rules)
    if spec.mode == "enforce" and ends and spec.on_error is None:
        yield problem_at(
            policy.source,
            ("spec",),
            "enforced rules end requests and `on_error` is not said (block is closed, respond "
            "open): add `on_error: closed` or `open`",
            "warning",
        )
    if spec.mode == "enforce" and spec.rollout_percent == 0:
        yield problem_at(
            policy.source,
            ("spec", "rollout_percent"),
            "0 enforces nothing: use `mode: shadow`, or a share above 0",
            "warning",
        )


def _what_can_leave(policy: Policy, rule: Rule, at: Location) -> Iterator[Problem]:
    if not isinstance(rule.then, Block | Respond):
        return
    if rule.phase == "final":
        text = "while enforced, keeps the whole answer back until it ends; nothing leaves before"
        yield problem_at(policy.source, at, text, "note")
    if rule.phase == "output":
        condition = condition_of(rule)
        streak = (condition.streak_tokens if condition else None) or 1
        leak = rule.leak_tokens or 0
        can = f"up to {leak} of its tokens leave" if leak else "none of its tokens leaves"
        run = f"the run of {streak} tokens that fires" if streak > 1 else "the token that fires"
        text = f"while enforced, keeps {streak - leak} tokens back; of {run}, {can}"
        yield problem_at(policy.source, at, text, "note")


def _constant_streams(policy: Policy, resolved: Resolved) -> Iterator[Problem]:
    for index, rule in enumerate(policy.spec.rules):
        condition = condition_of(rule)
        if rule.phase != "output" or condition is None:
            continue
        specs = [resolved.signals.get(leaf.signal) for leaf in leaves(condition.root)]
        if all(spec is not None and spec.scope == "prompt" for spec in specs):
            text = "reads the prompt only, so no output token changes it: use `phase: prompt`"
            yield problem_at(policy.source, ("spec", "rules", index), text, "warning")


def _double_steering(policies: Sequence[Policy]) -> Iterator[Problem]:
    seen: dict[str, tuple[Steer, str]] = {}
    for policy in policies:
        for index, rule in enumerate(policy.spec.rules):
            if not isinstance(rule.then, Steer):
                continue
            first, where = seen.setdefault(
                _named(rule.then), (rule.then, f"{policy.name}/{rule.id}")
            )
            if _target(first) != _target(rule.then):
                text = (
                    f"`{_named(rule.then)}` has another unit, sites or layers in {where}, "
                    "so both are added when both fire: use the same to have the stronger win"
                )
                at = ("spec", "rules", index, "then")
                yield problem_at(policy.source, at, text, "warning")


def _named(steer: Steer) -> str:
    return steer.name if steer.sae is None else f"feature {steer.feature} of {steer.name}"


def _target(steer: Steer) -> tuple[object, ...]:
    return steer.unit, steer.sites, steer.layers


def has_findings(problems: Iterable[Problem]) -> bool:
    """Tell whether there is an error or a warning; notes alone are no finding."""
    return any(each.severity != "note" for each in problems)
