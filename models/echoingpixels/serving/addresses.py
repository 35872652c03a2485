"""Addresses that may be fetched: patterns of URLs, and IP addresses that are public."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import unquote, urlsplit

from ..errors import OptionError

PORTS = {"http": 80, "https": 443}
HINT = "Give a scheme, a host and a path, such as 'https://media.example.com/*'."
REFUSED = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # metadata services at addresses that count as public: Azure's and Oracle's
            "192.0.0.0/24",
            "192.88.99.0/24",  # IPv4 inside IPv6: 6to4, NAT64, Teredo
            "64:ff9b::/96",
            "64:ff9b:1::/48",
            "2002::/16",
            "2001::/32",
            "::/96",
        ),
    )
)


@dataclass(frozen=True)
class Pattern:
    """An allowed URL. A `*` in the host or the path stands for any characters of that part."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, text: str) -> Pattern:
        """Read `https://media.example.com/clips/*`; without a path, every path. OptionError for anything else."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise OptionError(f"{text!r} is not a pattern of URLs.", HINT) from None
        host = parts.hostname or ""
        if parts.scheme not in PORTS or not host or parts.username is not None or parts.fragment:
            raise OptionError(f"{text!r} is not a pattern of URLs.", HINT)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        return cls(parts.scheme, host.lower(), port or PORTS[parts.scheme], path or "/*")

    def matches(self, scheme: str, host: str, port: int, path: str) -> bool:
        """Whether a URL in these parts is allowed. `path` has the query; one that leaves its folder never matches."""
        if (scheme, port) != (self.scheme, self.port) or not fnmatchcase(host.lower(), self.host):
            return False
        plain = unquote(unquote(path.partition("?")[0])).replace("\\", "/")
        return ".." not in plain.split("/") and fnmatchcase(path, self.path)


def is_public(address: str) -> bool:
    """Whether an IP address is a public one: not private, loopback, link-local, multicast, reserved, or metadata."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # such as an address with a scope
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip.is_site_local or ip.scope_id:
            return False
    special = ip.is_private or ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_reserved
    if special or ip.is_unspecified or not ip.is_global:
        return False
    return not any(ip in network for network in REFUSED)
