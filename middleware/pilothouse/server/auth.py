"""Who is asking: credentials, tenant, what that caller may do; and where `auth` can work at all.

What a peer may be trusted with depends on where the server listens.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import socket
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope

from pilothouse.config import Auth
from pilothouse.errors import ConfigError, RequestError
from pilothouse.log_text import log_text
from pilothouse.server.peer import Peer, passed_on, peer_of, unmapped
from pilothouse.trusted_proxies import UNIX_PEERS

logger = logging.getLogger(__name__)


Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LOOPBACK_NETWORKS: Final[tuple[Network, ...]] = (
    ipaddress.ip_network("127.0.0.0/8"),
    ipaddress.ip_network("::1/128"),
)


@dataclass(frozen=True, slots=True)
class Listening:
    """What kind of peers can connect."""

    unix: bool = False
    loopback_only: bool = False
    versions: frozenset[int] = frozenset({4, 6})
    """Of IP, that peers can have addresses of."""

    @property
    def is_private(self) -> bool:
        """Only processes of this machine can connect; a proxy may be one."""
        return self.unix or self.loopback_only

    def can_reach(self, network: Network) -> bool:
        """Whether any peer can have an address of a network."""
        if self.unix or network.version not in self.versions:
            return False
        return not self.loopback_only or any(
            network.version == each.version and network.overlaps(each)
            for each in _LOOPBACK_NETWORKS
        )


NOT_PRIVATE: Final = (
    "the server has no --api-key and listens beyond this machine: start it with a key, or let it "
    "listen on loopback (--host 127.0.0.1) or a Unix socket (--uds PATH) alone"
)
PROXY_IS_NOBODY: Final = (
    "the server has no --api-key, and who connects from here may be a proxy of "
    "auth.trusted_proxies that speaks for anybody: start the server with a key"
)
ANYWHERE: Final = Listening()
"""Nothing is known of it, so the worst is taken to be so."""


def listening_of(args: Namespace) -> Listening:
    """Where vLLM will listen under these arguments, as its launcher reads them.

    Without a host it binds every IPv4 address, and it takes names for IPv4 ones.
    """
    if getattr(args, "uds", None):
        return Listening(unix=True)
    host = getattr(args, "host", None) or ""
    try:
        address = unmapped(ipaddress.ip_address(host))
    except ValueError:
        return Listening(loopback_only=_is_loopback_name(host), versions=frozenset({4}))
    both = address.version == 6 and address.is_unspecified
    versions = frozenset({4, 6}) if both else frozenset({address.version})
    return Listening(loopback_only=address.is_loopback, versions=versions)


def api_keys(args: Namespace) -> list[str]:
    """The keys that vLLM will ask for."""
    keys = getattr(args, "api_key", None) or [os.environ.get("VLLM_API_KEY")]
    return [key for key in keys if key]


def check_auth(auth: Auth, listening: Listening) -> None:
    """Refuse trusted proxies that could never be met.

    Raises:
        ConfigError: no peer can be one of them.
    """
    cidrs = auth.trusted_proxies.cidrs
    place = "auth.trusted_proxies.cidrs"
    if listening.unix and cidrs and UNIX_PEERS not in cidrs:
        raise ConfigError(
            f"{place}: got {', '.join(cidrs)}, but the server listens on a Unix socket (--uds), "
            f"whose peers have no address: want {UNIX_PEERS!r}, which stands for them"
        )
    if UNIX_PEERS in cidrs and not listening.unix:
        raise ConfigError(
            f"{place}: got {UNIX_PEERS!r}, but the server listens on no Unix socket: start with "
            "--uds PATH, or list the proxy's address"
        )
    networks = networks_of(auth)
    if networks and not any(listening.can_reach(each) for each in networks):
        version = max(listening.versions)
        where = f"IPv{version}'s loopback" if listening.loopback_only else f"IPv{version}"
        own = "::1/128" if version == 6 else "127.0.0.1/32"
        want = own if listening.loopback_only else f"the proxy's IPv{version} network"
        raise ConfigError(
            f"{place}: got {', '.join(cidrs)}, but the server listens on {where} alone, where no "
            f"peer has such an address: want {want}, or another --host"
        )


def networks_of(auth: Auth) -> tuple[Network, ...]:
    """The networks of the trusted proxies."""
    return _networks(auth.trusted_proxies.cidrs)


def trusts(auth: Auth, peer: Peer) -> bool:
    """A peer is one of the trusted proxies, so that it speaks for others."""
    if peer.unix:
        return UNIX_PEERS in auth.trusted_proxies.cidrs
    return peer.address is not None and any(peer.address in each for each in networks_of(auth))


def operators(auth: Auth, listening: Listening, *, keyed: bool) -> str:
    """Whom the operator's routes answer, in words."""
    closed = why_closed(auth, listening, keyed=keyed)
    if closed is not None:
        return f"nobody: {closed}"
    return "callers with an API key" if keyed else "callers on this machine"


def why_closed(auth: Auth, listening: Listening, *, keyed: bool) -> str | None:
    """Why the operator's routes answer nobody, None where they answer somebody.

    Without a key whoever is on this machine is the operator. A proxy there would make anybody look
    so, and it is only surely absent where nothing else can connect.
    """
    if keyed:
        return None
    if not listening.is_private:
        return NOT_PRIVATE
    usual = Peer(None, unix=True) if listening.unix else Peer(ipaddress.ip_address("127.0.0.1"))
    return PROXY_IS_NOBODY if trusts(auth, usual) else None


@lru_cache(maxsize=64)
def _networks(cidrs: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(each) for each in cidrs if each != UNIX_PEERS)


def _is_loopback_name(host: str) -> bool:
    if not host:
        return False
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(each[4][0]).is_loopback for each in found)


NO_TENANT: Final = ""
MAX_TENANT_CHARACTERS = 128
MAX_TOLD_PEERS = 16
"""Addresses that are told to name a tenant without being trusted; any client can be one."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a caller may not ask a route of ours."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as the connection and the key show it: worked out once for a request."""

    tenant: str
    loopback: bool
    """On this machine, and not passed on by a proxy there."""
    authenticated: bool
    """A valid API key was shown; false when the server has none."""
    may_steer: bool
    may_see_scores: bool
    rollout_key: str
    lacks_key: bool = False
    """The server has API keys, and none of them was shown."""
    not_operator: Refused | None = None
    """Why it is not the operator, None for one who is."""


NOBODY: Final = Caller(
    tenant=NO_TENANT,
    loopback=False,
    authenticated=False,
    may_steer=False,
    may_see_scores=False,
    rollout_key="unknown",
)
"""Of a request of which nothing is known yet."""


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

    def _refused_as_operator(
        self, peer: Peer, sign: str | None, *, authenticated: bool
    ) -> Refused | None:
        """Why a caller is not the operator, None for one who is.

        Until there are roles: whoever shows a key, or where there are none, this machine.

        Args:
            authenticated: whether a key of the server's was given.
            peer: who is at the other end of the connection.
            sign: what shows that a proxy passed the request on.
        """
        if self.keyed:
            return None if authenticated else Refused(401, "it is for callers with an API key")
        if not peer.on_this_machine:
            return Refused(403, "it is for this machine only while the server has no --api-key")
        if not self._is_private:
            return Refused(403, NOT_PRIVATE)
        if trusts(self._auth, peer):
            return Refused(403, PROXY_IS_NOBODY)
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
        sign = passed_on(scope)
        proxy = trusts(self._auth, peer)
        local = peer.on_this_machine and not proxy and sign is None
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
            lacks_key=self.keyed and key is None,
            not_operator=self._refused_as_operator(peer, sign, authenticated=key is not None),
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
