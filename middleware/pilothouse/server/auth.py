"""Who is asking: peer, credentials, tenant, and what that caller may do."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

from pilothouse.config import Auth
from pilothouse.errors import RequestError
from pilothouse.log_text import log_text
from pilothouse.server.listening import (
    ANYWHERE,
    NOT_PRIVATE,
    PROXY_IS_NOBODY,
    Listening,
    check_auth,
    trusts,
)
from pilothouse.server.peer import Peer, passed_on, peer_of

logger = logging.getLogger(__name__)

NO_TENANT = ""
MAX_TENANT_CHARACTERS = 128
MAX_TOLD_PEERS = 16
"""Addresses that are told to name a tenant without being trusted; any client can be one."""


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller, as authentication and the connection show it."""

    tenant: str
    loopback: bool
    """On this machine, and not passed on by a proxy there."""
    authenticated: bool
    """A valid API key was shown; false when the server has none."""
    may_steer: bool
    may_see_scores: bool
    rollout_key: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a caller may not ask a route of ours."""

    status: int
    reason: str


class Authenticator:
    """Makes `Caller`s; knows the keys, the trusted proxies and the grants.

    Raises:
        ConfigError: trusted proxies that could never be met where the server listens.
    """

    def __init__(
        self,
        auth: Auth,
        api_keys: Iterable[str],
        *,
        demo: bool,
        listening: Listening = ANYWHERE,
    ) -> None:
        check_auth(auth, listening)
        self._auth = auth
        self._demo = demo
        self._keys = tuple(hashlib.sha256(key.encode()).digest() for key in api_keys)
        self._tenant_header = auth.trusted_proxies.tenant_header.lower()
        self._is_private = listening.is_private
        self._told: set[str] = set()

    @property
    def keyed(self) -> bool:
        """The server has API keys, so a caller must show one."""
        return bool(self._keys)

    def refused_as_operator(self, scope: Scope) -> Refused | None:
        """Why a caller is not the operator, None for one who is.

        Until there are roles: whoever shows a key, or where there are none, this machine.
        """
        if self.keyed:
            if self._shown_key(Headers(scope=scope)) is not None:
                return None
            return Refused(401, "it is for callers with an API key")
        peer = peer_of(scope)
        if not peer.on_this_machine:
            return Refused(403, "it is for this machine only while the server has no --api-key")
        if not self._is_private:
            return Refused(403, NOT_PRIVATE)
        if trusts(self._auth, peer):
            return Refused(403, PROXY_IS_NOBODY)
        sign = passed_on(scope)
        if sign is not None:
            return Refused(403, f"it is not for requests that were forwarded ({sign})")
        return None

    def caller(self, scope: Scope) -> Caller:
        """The caller of a request.

        Raises:
            RequestError: a trusted proxy sent a tenant that cannot be one.
        """
        headers = Headers(scope=scope)
        peer = peer_of(scope)
        proxy = trusts(self._auth, peer)
        local = peer.on_this_machine and not proxy and passed_on(scope) is None
        if not proxy:
            self._tell_ignored(headers, peer)
        key = self._shown_key(headers)
        reach = local or not self._demo
        return Caller(
            tenant=self._tenant(headers) if proxy else NO_TENANT,
            loopback=local,
            authenticated=key is not None,
            may_steer=self._auth.client_steering and reach,
            may_see_scores=self._auth.client_scores and reach,
            rollout_key=key.hex() if key else peer.rollout_key,
        )

    def _shown_key(self, headers: Headers) -> bytes | None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = hashlib.sha256(key.encode()).digest()
        found = None
        for known in self._keys:
            if hmac.compare_digest(digest, known):
                found = known
        return found

    def _tell_ignored(self, headers: Headers, peer: Peer) -> None:
        """Say once of each address that its tenants count for nothing: it may be meant as a proxy.

        A proxy that is missing on the list would lose its tenants' policies in silence.
        """
        address = peer.rollout_key
        named = self._auth.trusted_proxies.cidrs and self._tenant_header in headers
        if named and address not in self._told and len(self._told) < MAX_TOLD_PEERS:
            self._told.add(address)
            logger.warning(
                "a request from %s names a tenant in the header %s, which counts for nothing: the "
                "address is not under auth.trusted_proxies.cidrs",
                log_text(address),
                log_text(self._tenant_header),
            )

    def _tenant(self, headers: Headers) -> str:
        """The one tenant that a proxy named: one it only added to a client's own is none."""
        named = headers.getlist(self._tenant_header)
        tenant = named[0].strip() if named else NO_TENANT
        fine = len(tenant) <= MAX_TENANT_CHARACTERS and tenant.isprintable() and "," not in tenant
        if len(named) > 1 or not fine:
            raise RequestError(
                f"header {self._tenant_header}: want it once, with at most "
                f"{MAX_TENANT_CHARACTERS} printable characters and no comma; the proxy must "
                "overwrite what a client sends"
            )
        return tenant
