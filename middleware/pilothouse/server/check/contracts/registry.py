"""The contracts of the check, loaded by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pilothouse.policy.endpoint_names import CheckName
from pilothouse.server.check.contracts.base import CheckContract
from pilothouse.server.check.contracts.bedrock import CONTRACT as BEDROCK
from pilothouse.server.check.contracts.detectors import CONTRACT as DETECTORS
from pilothouse.server.check.contracts.litellm import CONTRACT as LITELLM
from pilothouse.server.check.contracts.moderations import CONTRACT as MODERATIONS
from pilothouse.server.check.contracts.native import CONTRACT as NATIVE
from pilothouse.server.check.contracts.nemo import CONTRACT as NEMO

CONTRACTS: Final[Mapping[CheckName, CheckContract]] = {
    each.name: each for each in (NATIVE, MODERATIONS, LITELLM, DETECTORS, BEDROCK, NEMO)
}
