"""What starting the service on one's own machine needs: a key to try it with, a call to copy, a port that is free."""

import signal
import socket
import time
from pathlib import Path

import pandas as pd

from countryreward.errors import UserError
from countryreward.serving.http.keys import FILE, SCOPES, KeyStore
from countryreward.serving.studio.guests import FILE as GUESTS
from countryreward.serving.studio.guests import GuestStore, link_of

TENANT = "demo"
YOU = "You"
"""Name of whoever starts the service, in the studio."""


def free_port(host: str, port: int) -> None:
    """Raises `UserError` where another process listens, and for what is no port."""
    if not 0 < port < 65_536:
        raise UserError(f"port: {port} is no port; write 1 to 65535 as --port")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"port: {host}:{port} cannot be used ({error.strerror}); write another as --port") from None


def demo_key(state: Path) -> Path:
    """A file with a key of the tenant `demo`, readable by its owner alone; made when there is none that is valid."""
    keys, path = KeyStore(state / FILE, poll_s=0), state / "demo.key"
    caller = keys.check(path.read_text(encoding="ascii").strip()) if path.exists() else None
    if caller is None or set(caller.scopes) != set(SCOPES):  # a key of an older version may do less
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(keys.create(TENANT, scopes=SCOPES) + "\n", encoding="ascii")
    return path


def studio_link(state: Path, url: str) -> str:
    """A fresh invitation into the studio for whoever started the service; those before that nobody used are ended."""
    guests = GuestStore(state / GUESTS, poll_s=0)
    for guest in guests.list():
        if (guest.tenant, guest.name, guest.state()) == (TENANT, YOU, "invited"):
            guests.revoke(guest.id)
    return link_of(url, guests.invite(TENANT, YOU))


def example_call(url: str, key_file: Path, model: str) -> str:
    """A curl call that works as printed: about two images of the marketplace beside the model, where there is one."""
    title, images = "Oak desk lamp", ["a.jpg", "b.jpg"]
    export = Path(model).parent / "export"
    if (export / "creatives.csv").exists():
        creatives = pd.read_csv(export / "creatives.csv")
        creatives = creatives[creatives["product_id"] == creatives["product_id"].iloc[-1]]
        products = pd.read_csv(export / "products.csv").set_index("product_id")
        title = str(products.loc[creatives["product_id"].iloc[0], "title"])
        images = [str(export / "images" / uri) for uri in creatives["image_uri"].iloc[:2]]
    lines = [
        f'curl -s -H "Authorization: Bearer $(cat {key_file})"',
        *(f"-F image_{side}=@{image}" for side, image in zip("ab", images, strict=True)),
        f"-F title='{title.replace(chr(39), '')}' -F markets=KR -F markets=BR -F evidence=1",
        f"{url}/v1/score",
    ]
    return " \\\n  ".join(lines)


def until_stopped() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    signals: list[int] = []  # an Event could not be set by a handler that interrupts its own wait
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(number))
    while not signals:
        time.sleep(0.2)
