"""Addresses of hosts, and which of them are public."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to all its addresses, as text. Raises OSError when there is none."""

_UNICAST = IPv6Network("2000::/3")  # the part of IPv6 that is given out
_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it belongs to the open Internet, and any IPv4 address inside it (mapped, NAT64, 6to4) does too."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
        if address.sixtofour is not None:  # which Python 3.11.2 itself calls private
            return is_public(address.sixtofour)
        if address not in _UNICAST or address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


async def look_up(host: str, port: int) -> list[str]:
    """All addresses of a host, by the machine's own resolver. See `Resolve`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(where[0]) for *_, where in found]
