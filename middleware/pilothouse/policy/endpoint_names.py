"""The registry of endpoints: their names, as `match.endpoints` of a policy has them, and paths.

An endpoint that is named here is the file of that name in `server/endpoints/`. The names stand in
this room because policies are checked where neither vLLM nor a server can be loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

EndpointName = Literal["chat", "completions", "responses"]
PATHS: Final[Mapping[EndpointName, str]] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
}
ENDPOINTS: Final[tuple[EndpointName, ...]] = tuple(PATHS)

CheckName = Literal["check", "moderations", "litellm", "detectors", "bedrock", "nemo"]
CHECK_PATHS: Final[Mapping[CheckName, str]] = {
    "check": "/pilothouse/v1/check",
    "moderations": "/v1/moderations",
    "litellm": "/beta/litellm_basic_guardrail_api",
    "detectors": "/api/v1/text/contents",
    "bedrock": "/guardrail/{identifier}/version/{version}/apply",
    "nemo": "/v1/guardrail/checks",
}
"""Routes that score given texts and generate nothing; each is a file in `server/check/contracts/`.

A path may hold `{name}`, which stands for one segment.
"""
