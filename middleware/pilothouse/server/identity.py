"""Who is asking: peer, credentials, tenant, and what that caller may do."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

from pilothouse.config import Auth
from pilothouse.errors import ConfigError, RequestError

NO_TENANT = ""
MAX_TENANT_CHARACTERS = 128

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller, as authentication and the connection show it."""

    tenant: str
    loopback: bool
    authenticated: bool
    """A valid API key was shown; false when the server has none."""
    may_steer: bool
    may_see_scores: bool
    rollout_key: str


class Doorkeeper:
    """Makes `Caller`s; knows the keys, the trusted proxies and the grants."""

    def __init__(self, auth: Auth, api_keys: Iterable[str], *, demo: bool) -> None:
        self._auth = auth
        self._demo = demo
        self._keys = tuple(hashlib.sha256(key.encode()).digest() for key in api_keys)
        self._proxies = _networks(auth.trusted_proxies.cidrs)
        self._tenant_header = auth.trusted_proxies.tenant_header.lower()

    @property
    def keyed(self) -> bool:
        """The server has API keys, so a caller must show one."""
        return bool(self._keys)

    def is_operator(self, scope: Scope) -> bool:
        """Until there are roles: whoever shows a key, or where there are none, this machine."""
        if self.keyed:
            return self._shown_key(Headers(scope=scope)) is not None
        return on_this_machine(scope)

    def caller(self, scope: Scope) -> Caller:
        """The caller of a request.

        Raises:
            RequestError: a trusted proxy sent a tenant that cannot be one.
        """
        headers = Headers(scope=scope)
        address = _address(scope)
        loopback = on_this_machine(scope)
        key = self._shown_key(headers)
        reach = loopback or not self._demo
        return Caller(
            tenant=self._tenant(headers, address),
            loopback=loopback,
            authenticated=key is not None,
            may_steer=self._auth.client_steering and reach,
            may_see_scores=self._auth.client_scores and reach,
            rollout_key=key.hex() if key else str(address),
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

    def _tenant(
        self, headers: Headers, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None
    ) -> str:
        if address is None or not any(address in network for network in self._proxies):
            return NO_TENANT
        tenant = headers.get(self._tenant_header, NO_TENANT)
        if len(tenant) > MAX_TENANT_CHARACTERS or not tenant.isprintable():
            raise RequestError(
                f"header {self._tenant_header}: want at most {MAX_TENANT_CHARACTERS} printable "
                "characters"
            )
        return tenant


def on_this_machine(scope: Scope) -> bool:
    """The peer's address is a loopback one."""
    address = _address(scope)
    return address is not None and address.is_loopback


def _networks(cidrs: Sequence[str]) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(each) for each in cidrs)
    except ValueError as error:
        raise ConfigError(
            f"auth.trusted_proxies.cidrs: {error}; want networks such as 10.0.0.0/8"
        ) from error


def _address(scope: Scope) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None for what is no IP peer, such as a Unix socket."""
    client = scope.get("client")
    try:
        return ipaddress.ip_address(client[0]) if client else None
    except ValueError:
        return None
