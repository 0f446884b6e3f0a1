"""`auth.trusted_proxies`: peers that may name the tenant, without what could never take effect."""

from __future__ import annotations

from ipaddress import IPv6Network, ip_network
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

UNIX_PEERS = "unix"
"""Stands in `auth.trusted_proxies.cidrs` for whoever may connect to the server's Unix socket."""
OWN_HEADERS = "x-pilothouse-"


def _network(given: str) -> str:
    if given == UNIX_PEERS:
        return given
    if "%" in given:
        raise ValueError(f"got {given}, but the zone would count for nothing: want none")
    try:
        network = ip_network(given)
    except ValueError as error:
        raise ValueError(f"{error}; want a network such as 10.0.0.0/8") from error
    inside = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if inside is not None and network.prefixlen >= 96:
        raise ValueError(
            f"got {given}, but addresses of this kind count as IPv4: want "
            f"{inside}/{network.prefixlen - 96}"
        )
    return given


def _header(given: str) -> str:
    if given.lower().startswith(OWN_HEADERS):
        raise ValueError(f"got {given!r}, but a client's {OWN_HEADERS}* are dropped: want another")
    return given


HeaderName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~\-]+$", max_length=64), AfterValidator(_header)
]


class TrustedProxies(BaseModel):
    """Which peers may name the tenant, and in which header."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cidrs: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    """Networks, or `unix`."""
    tenant_header: HeaderName = "x-tenant"
