"""Images named by URL. The URL is a stranger's, so it decides nothing: not where we connect, not how much we read.

A host must be on the list. Its addresses are looked up once, all of them must be public, and the connection goes to one of
them, while TLS still asks for the host's own name. A redirect is a new URL that passes all of this again. Without that, a
caller could have the service read what only the service can reach (a cloud's metadata, a database, its own metrics).
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import httpx2

from countryreward.errors import UserError
from countryreward.serving.http.problems import Problem

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
    """All addresses of a host, by the machine's own resolver. Raises OSError when there is none."""
    answers = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(where[0]) for *_, where in answers]


MAX_URL = 2_048
REDIRECTS = 3
ADDRESSES = 4
"""So many addresses of a host are tried, in the resolver's order."""


class FetchRefused(Problem):
    """An image that was not fetched. The message names the field and the reason, never the URL or an address."""

    def __init__(self, field: str, reason: str, code: str = "invalid_image") -> None:
        super().__init__(code, f"{field}: {reason}")


class ImageFetcher:
    """Fetches image files over https from the hosts on a list. An empty list: every URL is refused.

    `hosts`: names such as cdn.example.com, or .example.com for every name under it. `own_networks`: private networks, such as
    10.1.0.0/16, where a host on the list may stand all the same. `verify`: trusted authorities, the machine's by default.
    Raises `UserError` for a host that is none.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        max_bytes: int,
        timeout_s: float = 10.0,
        resolve: Resolve | None = None,
        ports: Collection[int] = (443,),
        own_networks: Sequence[str] = (),
        verify: ssl.SSLContext | None = None,
    ) -> None:
        self.hosts = frozenset(_listed(host) for host in hosts)
        self.max_bytes, self.timeout_s, self.ports = max_bytes, timeout_s, frozenset(ports)
        self._resolve = resolve or look_up
        self._own = [ip_network(network) for network in own_networks]
        self._verify = (verify or httpx2.create_ssl_context(trust_env=False)) if hosts else None

    async def fetch(self, url: str, *, field: str = "image_url") -> bytes:
        """The file's bytes, at most `max_bytes`; what they are is left to the decoder. Raises `FetchRefused`."""
        if not self.hosts:
            raise FetchRefused(field, "URLs are not fetched here; send the file itself", "invalid_input")
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._follow(self._checked(url, field), field)
        except (TimeoutError, httpx2.TimeoutException):
            raise FetchRefused(field, f"the host took longer than {self.timeout_s:g} seconds") from None
        except (httpx2.HTTPError, httpx2.InvalidURL):
            raise FetchRefused(
                field, "the host did not answer; see that its address is public and its certificate valid"
            ) from None

    async def _follow(self, url: httpx2.URL, field: str) -> bytes:
        for _ in range(REDIRECTS + 1):
            content, location = await self._get(url, await self._address(url, field), field)
            if location is None:
                return content
            url = self._checked(_joined(url, location), field)
        raise FetchRefused(field, f"more than {REDIRECTS} redirects")

    def _checked(self, text: str, field: str) -> httpx2.URL:
        """The URL that will be asked, with its host in plain lower-case ASCII."""

        def refused(reason: str) -> FetchRefused:
            return FetchRefused(field, reason, "invalid_input")

        if len(text) > MAX_URL or _NEVER.search(text):
            raise refused(f"the URL is longer than {MAX_URL} characters, or holds a blank, a control or a backslash")
        try:
            url = httpx2.URL(text)  # the one parser: what it reads here is what is asked below
        except (httpx2.InvalidURL, ValueError):
            raise refused("this is no URL") from None
        if url.scheme != "https":
            raise refused("only https:// is fetched, also after a redirect")
        if url.userinfo:
            raise refused("a URL with a user name or password is not fetched")
        if (url.port or 443) not in self.ports:
            raise refused("this port is not fetched from; use 443")
        host = _host(url)
        parents = {host[at:] for at, letter in enumerate(host) if letter == "."}
        if not _NAME.fullmatch(host) or not self.hosts & {host, *parents}:
            raise refused("this host is not on the list of hosts that images are fetched from")
        return url.copy_with(host=host, fragment=None)

    async def _address(self, url: httpx2.URL, field: str) -> list[str]:
        """Where to connect: addresses that were all checked. Looked up once, so a second answer cannot replace them."""
        try:
            addresses = list(dict.fromkeys(await self._resolve(url.host, url.port or 443)))
        except (OSError, UnicodeError):
            addresses = []
        if not addresses:
            raise FetchRefused(field, "the host's address was not found")
        if not all(self._may_connect(address) for address in addresses):
            raise FetchRefused(field, "the host has an address that is not public")
        return addresses[:ADDRESSES]

    def _may_connect(self, text: str) -> bool:
        try:
            address = ip_address(text)
        except ValueError:
            return False
        return is_public(address) or any(address in network for network in self._own)

    async def _get(self, url: httpx2.URL, addresses: list[str], field: str) -> tuple[bytes, str | None]:
        """Content, or where a redirect points."""
        failure: httpx2.HTTPError | None = None
        for address in addresses:
            try:
                return await self._get_from(url, address, field)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure

    async def _get_from(self, url: httpx2.URL, address: str, field: str) -> tuple[bytes, str | None]:
        assert self._verify is not None
        # A client per request: a pool would share connections by address, and with them the certificate of another host.
        async with (
            httpx2.AsyncClient(
                verify=self._verify,
                trust_env=False,
                follow_redirects=False,
                timeout=httpx2.Timeout(self.timeout_s, connect=self.timeout_s / 2),  # leaves time for a second address
            ) as client,
            client.stream(
                "GET",
                url.copy_with(host=address),
                headers={
                    "Host": url.netloc.decode("ascii"),
                    "Accept": "image/png, image/jpeg, image/webp",
                    "Accept-Encoding": "identity",
                    "User-Agent": "countryreward",
                },
                extensions={"sni_hostname": url.host},  # TLS asks for this name, and the certificate must be for it
            ) as response,
        ):
            if response.has_redirect_location:
                return b"", response.headers["Location"]
            if response.status_code != 200:
                raise FetchRefused(field, f"the host answered with status {response.status_code}")
            return await self._body(response, field), None

    async def _body(self, response: httpx2.Response, field: str) -> bytes:
        """As it came, never unpacked: a small archive could hold gigabytes."""
        too_large = FetchRefused(field, f"larger than {self.max_bytes} bytes; shrink the file", "too_large")
        announced = response.headers.get("Content-Length", "")
        if announced.isdecimal() and int(announced[:20]) > self.max_bytes:
            raise too_large
        content = bytearray()
        async for part in response.aiter_raw():
            content += part
            if len(content) > self.max_bytes:
                raise too_large
        if not content:
            raise FetchRefused(field, "the file is empty")
        return bytes(content)


def _host(url: httpx2.URL) -> str:
    """ASCII, lower case, without the root's dot."""
    return url.raw_host.decode("ascii").lower().removesuffix(".")


def _joined(url: httpx2.URL, location: str) -> str:
    """A redirect's target; httpx2 raises InvalidURL for what is none."""
    return location if _NEVER.search(location) else str(url.join(location))


def _listed(entry: str) -> str:
    try:
        host = _host(httpx2.URL(f"https://{entry.strip().removeprefix('.')}/"))
    except (httpx2.InvalidURL, ValueError):
        host = ""
    if not _NAME.fullmatch(host) or any(letter in entry for letter in "/@?#:\\"):
        raise UserError(
            f"image_hosts: {entry!r} is no host name; write cdn.example.com, or .example.com for all under it"
        )
    return f".{host}" if entry.strip().startswith(".") else host


_NEVER = re.compile(r"[\x00-\x20\x7f\\]")
# Two labels or more, the last with a letter first: 127.1, 0x7f.1 and 2130706433 are addresses to some resolvers.
_NAME = re.compile(r"(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
