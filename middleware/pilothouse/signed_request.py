"""A signed request: what the server tells the scheduler about one request, under a MAC.

The value travels in vLLM's `vllm_xargs` under `SIGNED_REQUEST_KEY`, as
`base64url(json).base64url(mac)`. The key is drawn at each start and lives in the environment of
the processes of that start only. `itsdangerous` would be one more dependency of every server, to
replace the two lines around `hmac`; fields and their bounds are checked by pydantic either way.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets

from pydantic import BaseModel, ConfigDict, ValidationError

from pilothouse.errors import EngineError, RequestError
from pilothouse.term import SteerTerm
from pilothouse.types import ScoreDetail

SIGNED_REQUEST_KEY = "pilothouse_sealed"
SEAL_KEY_VARIABLE = "PILOTHOUSE_SEAL_KEY"


class AppliedPolicy(BaseModel):
    """A policy whose match holds for this request, and whether its verdicts are carried out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    enforced: bool


class SignedRequest(BaseModel):
    """Everything the scheduler needs to know of one request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    decision_id: str
    revision: str
    steer: tuple[SteerTerm, ...] = ()
    policies: tuple[AppliedPolicy, ...] = ()
    probes: tuple[str, ...] = ()
    scores: ScoreDetail = "none"
    check: bool = False
    """It is scored and nothing more: every rule is evaluated, and none is carried out."""
    answer_turn: int | None = None
    """Of a check of an answer: how many of the assistant's turns stand before it."""


def new_signing_key() -> str:
    """A fresh key, as text fit for an environment variable."""
    return secrets.token_hex(32)


def signing_key() -> bytes:
    """The key of this start.

    Raises:
        EngineError: the environment has none, so this process was not started by Pilothouse.
    """
    text = os.environ.get(SEAL_KEY_VARIABLE)
    if not text:
        raise EngineError(
            f"{SEAL_KEY_VARIABLE} is not set: this process was not started by `pilothouse serve`"
        )
    return bytes.fromhex(text)


def seal(request: SignedRequest, key: bytes) -> str:
    """The text that `verify_request` accepts under the same key."""
    body = request.model_dump_json().encode()
    return f"{_text(body)}.{_text(_mac(body, key))}"


def verify_request(value: object, key: bytes) -> SignedRequest:
    """The request under a valid seal.

    Raises:
        RequestError: missing, not ours, or changed on the way.
    """
    if not isinstance(value, str) or value.count(".") != 1:
        raise RequestError("request carries no seal of the gate", status=403)
    body_text, mac_text = value.split(".")
    try:
        body = base64.urlsafe_b64decode(body_text)
        mac = base64.urlsafe_b64decode(mac_text)
    except ValueError as error:
        raise RequestError("request carries a broken seal", status=403) from error
    if not hmac.compare_digest(mac, _mac(body, key)):
        raise RequestError("request carries a seal of another start or another hand", status=403)
    try:
        return SignedRequest.model_validate_json(body)
    except ValidationError as error:
        raise RequestError("request carries a seal of another version", status=403) from error


def _mac(body: bytes, key: bytes) -> bytes:
    return hmac.new(key, body, hashlib.sha256).digest()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()
