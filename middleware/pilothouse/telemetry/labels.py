"""Closed sets of label values: what is outside one becomes `other`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Final

OTHER: Final = "other"
NO_TENANT: Final = "none"
MAX_TENANT_CLASSES: Final = 50


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
