"""The peer: who is at the other end of the socket. No header is asked, since the client writes it.

uvicorn puts what `X-Forwarded-For` says in the place of the peer's address before any application
sees it, so it is told to trust nobody. It reads that from a variable, which every API process
inherits.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope

from pilothouse.errors import ConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

FORWARDING_VARIABLE: Final = "FORWARDED_ALLOW_IPS"
FORWARDED: Final = frozenset(
    {
        "forwarded",
        "via",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "true-client-ip",
        "cdn-loop",
        "fastly-client-ip",
        "x-azure-clientip",
        "x-arr-log-id",
    }
)
FORWARDED_PREFIXES: Final = ("x-forwarded", "x-original-", "x-envoy-", "cf-", "x-amzn-")
MAX_SHOWN_HOST: Final = 80
IPV6_SUBNET_BITS: Final = 64
"""What one IPv6 customer has at least, and picks addresses in as it likes."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One end of a connection."""

    address: Address | None
    """An IPv4 address that a dual-stack socket wrote as IPv6 is the IPv4 one; None without IP."""
    unix: bool = False
    """It came over a Unix socket, whose file's permissions say who may."""

    @property
    def on_this_machine(self) -> bool:
        """It is a process of this machine: that may be a proxy, too."""
        return self.unix or (self.address is not None and self.address.is_loopback)

    @property
    def rollout_key(self) -> str:
        """What tells callers without a key apart; an IPv6 client cannot draw again in its net."""
        if self.address is None:
            return "unix" if self.unix else "unknown"
        if self.address.version == 4 or self.address.is_loopback:
            return str(self.address)
        return str(ipaddress.ip_network((int(self.address), IPV6_SUBNET_BITS), strict=False))


def peer_of(scope: Scope) -> Peer:
    """The peer of a request or websocket.

    uvicorn gives a Unix socket's connection no client, and a server address without a port. A TCP
    connection that was reset has no client either, and is nobody's.
    """
    client, server = scope.get("client"), scope.get("server")
    if not client:
        return Peer(None, unix=server is not None and server[1] is None)
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return Peer(None)
    return Peer(unmapped(address))


def unmapped(address: Address) -> Address:
    """The IPv4 address inside `::ffff:a.b.c.d`, and any other as it is."""
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return inner or address


def passed_on(scope: Scope) -> str | None:
    """What shows that a proxy passed a request on, None where nothing does.

    A proxy that adds no header may still ask in HTTP/1.0, as nginx long did by itself, or for the
    host that its client asked for. A page that had its own name resolve to this machine does that,
    too.
    """
    headers = Headers(scope=scope)
    for name in headers:
        if name.startswith(FORWARDED_PREFIXES) or name in FORWARDED:
            return f"header {name}"
    for host in headers.getlist("host"):
        if not _names_this_machine(host):
            return f"header host: {host[:MAX_SHOWN_HOST]!a} is no name of loopback"
    return "HTTP/1.0" if scope.get("http_version") == "1.0" else None


def _names_this_machine(host: str) -> bool:
    """Whether a `host`, with or without a port, is `localhost` or a loopback address."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::\d*)?", host)
    name = bracketed[1] if bracketed else re.sub(r":\d*$", "", host)
    try:
        return unmapped(ipaddress.ip_address(name)).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def refuse_forwarding() -> None:
    """Have this process's uvicorn, and those of its children, leave the peer as it is.

    Raises:
        ConfigError: the operator set another trust, which could not take effect.
    """
    asked = os.environ.get(FORWARDING_VARIABLE)
    if asked:
        raise ConfigError(
            f"{FORWARDING_VARIABLE}: got {asked!r}, want it unset: callers are told apart by the "
            "socket's peer and never by a header. List the proxies that may name a tenant under "
            "auth.trusted_proxies.cidrs in pilothouse.yaml"
        )
    os.environ[FORWARDING_VARIABLE] = ""


def check_forwarding_is_off() -> None:
    """Stop an API process whose uvicorn would rewrite the peer.

    Raises:
        ConfigError: it would.
    """
    found = os.environ.get(FORWARDING_VARIABLE)
    if found != "":
        raise ConfigError(
            f"{FORWARDING_VARIABLE}: got {found!r} in an API process, want it empty as `pilothouse "
            "serve` sets it: a header could choose the caller's address"
        )
