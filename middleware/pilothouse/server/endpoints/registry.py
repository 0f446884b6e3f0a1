"""The governed endpoints, loaded by their names."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Final, cast

from pilothouse.policy.endpoint_names import PATHS, EndpointName
from pilothouse.server.endpoints.base import Endpoint


def load(name: EndpointName) -> Endpoint:
    """Return the `ENDPOINT` of the file that has the endpoint's name.

    It is found by name so that an endpoint is one file and one row of `policy/endpoint_names.py`.
    """
    return cast("Endpoint", import_module(f"pilothouse.server.endpoints.{name}").ENDPOINT)


ENDPOINTS: Final[Mapping[EndpointName, Endpoint]] = {name: load(name) for name in PATHS}
BY_PATH: Final[Mapping[str, Endpoint]] = {each.path: each for each in ENDPOINTS.values()}
