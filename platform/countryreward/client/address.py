"""Where the service is and who asks: both are checked before anything is sent."""

import ipaddress
import os
import warnings

import httpx2

from countryreward import __version__
from countryreward.errors import UserError

URL, KEY = "COUNTRYREWARD_URL", "COUNTRYREWARD_KEY"
"""Environment variables."""


def address(url: str | None) -> str:
    """The service's address, with a slash at its end; None: of the environment. Warns where the key would travel in the clear."""
    given = url or os.environ.get(URL, "")
    if not given:
        raise UserError(f"url: it is missing; give the service's address or set {URL}")
    try:
        found = httpx2.URL(given.strip())
    except (httpx2.InvalidURL, ValueError):
        raise UserError("url: it is no address; write it as https://HOST") from None
    if found.scheme not in ("http", "https") or not found.host:
        raise UserError("url: it is no address; write it as https://HOST")
    if found.userinfo or found.query or found.fragment:
        raise UserError("url: it holds a user, a query or a fragment; write only https://HOST/PATH")
    if found.scheme == "http" and not _loopback(found.host):
        warnings.warn(f"the key and the images go to {found.host} unencrypted; use https://", UserWarning, stacklevel=4)
    return str(found).rstrip("/") + "/"


def headers(key: str | None) -> dict[str, str]:
    """Of every call. key None: of the environment."""
    given = (key or os.environ.get(KEY, "")).strip()
    if not given:
        raise UserError(f"key: it is missing; give your API key or set {KEY}")
    if not (given.isascii() and given.isprintable() and " " not in given):
        raise UserError("key: it holds a character that no key has; copy it again")  # an HTTP library would quote it
    return {"Authorization": f"Bearer {given}", "User-Agent": f"countryreward/{__version__}"}


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
