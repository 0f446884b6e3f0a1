"""The endpoint families a policy can name in `match.endpoints`."""

from __future__ import annotations

from typing import Literal, get_args

Endpoint = Literal["chat", "completions"]
ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)
