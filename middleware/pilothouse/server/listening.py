"""Where the server listens, and which settings of `auth` can work there."""

from __future__ import annotations

import ipaddress
import os
import socket
from argparse import Namespace
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pilothouse.config import Auth
from pilothouse.errors import ConfigError
from pilothouse.server.peer import Peer, unmapped
from pilothouse.trusted_proxies import UNIX_PEERS

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
