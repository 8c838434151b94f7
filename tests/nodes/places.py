"""Where the machines of a test cluster are, all of them on this one.

Namespaces: network namespaces on a bridge, each with an address of its own and nothing of the others' (Linux, root, iproute2).
Loopback: addresses 127.0.0.10, .11, ... of this machine, where no namespace can be made (Linux). Nothing parts the machines but
their addresses: ports are chosen so that they do not meet, and there is no cable to pull.
"""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import psutil

BRIDGE = "crbr0"
MARK = "COUNTRYREWARD_TEST_MACHINE"
"""Environment variable that tells the processes of one machine on loopback from another's."""


def ip(*arguments: str, check: bool = True) -> None:
    """Run `ip` of iproute2."""
    subprocess.run(["ip", *arguments], check=check, capture_output=not check)


class Places(Protocol):
    """The network of a test cluster. Machines are numbered from 1."""

    laptop: str
    """The address of who uses the cluster."""
    interface: str
    """Of a machine, to its address."""
    can_cut: bool
    """Whether a cable can be pulled."""

    def make(self) -> None:
        """The network, without machines."""
        ...

    def remove(self) -> None:
        """And all that `make` made."""
        ...

    def address(self, number: int) -> str:
        """Of a machine."""
        ...

    def port(self, usual: int) -> int:
        """To use for what usually listens there on a machine."""
        ...

    def link(self, number: int) -> None:
        """Make a machine and plug it in."""
        ...

    def unlink(self, number: int) -> None:
        """Take both away."""
        ...

    def up(self, number: int, yes: bool) -> None:
        """Plug its cable in, or pull it out."""
        ...

    def inside(self, number: int) -> list[str]:
        """What stands before a command that is to run on the machine."""
        ...

    def processes(self, number: int) -> list[int]:
        """Ids of all processes on the machine."""
        ...


class Namespaces:
    """A machine is a network namespace, its cable a pair of virtual interfaces."""

    net = "10.231.77"
    laptop, interface, can_cut = f"{net}.1", "eth0", True

    def make(self) -> None:
        """See `Places`."""
        ip("link", "del", BRIDGE, check=False)
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", f"{self.laptop}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")

    def remove(self) -> None:
        """See `Places`."""
        ip("link", "del", BRIDGE, check=False)

    def address(self, number: int) -> str:
        """See `Places`."""
        return f"{self.net}.{9 + number}"

    def port(self, usual: int) -> int:
        """See `Places`."""
        return usual

    def link(self, number: int) -> None:
        """See `Places`."""
        name, address = f"cr{number}", self.address(number)
        ip("netns", "del", name, check=False)
        ip("link", "del", f"{name}v", check=False)
        etc = Path("/etc/netns") / name
        etc.mkdir(parents=True, exist_ok=True)
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{address} {name} {socket.gethostname()}\n")
        ip("netns", "add", name)
        ip("link", "add", f"{name}v", "type", "veth", "peer", "name", self.interface, "netns", name)
        ip("link", "set", f"{name}v", "master", BRIDGE, "up")
        for command in (
            ["link", "set", "lo", "up"],
            ["addr", "add", f"{address}/24", "dev", self.interface],
            ["link", "set", self.interface, "up"],
        ):
            ip("-n", name, *command)

    def unlink(self, number: int) -> None:
        """See `Places`."""
        ip("link", "del", f"cr{number}v", check=False)
        ip("netns", "del", f"cr{number}", check=False)
        shutil.rmtree(Path("/etc/netns") / f"cr{number}", ignore_errors=True)

    def up(self, number: int, yes: bool) -> None:
        """See `Places`."""
        ip("link", "set", f"cr{number}v", "up" if yes else "down", check=False)

    def inside(self, number: int) -> list[str]:
        """See `Places`."""
        return ["ip", "netns", "exec", f"cr{number}"]

    def processes(self, number: int) -> list[int]:
        """See `Places`."""
        found = subprocess.run(["ip", "netns", "pids", f"cr{number}"], capture_output=True, text=True).stdout
        return [int(one) for one in found.split()]


class Loopback:
    """A machine is an address; its processes are those that inherited its mark."""

    laptop, interface, can_cut = "127.0.0.1", "lo", False

    def __init__(self) -> None:
        self.cluster = f"{os.getpid()}"
        self.ports: dict[int, int] = {}

    def make(self) -> None:
        """See `Places`."""

    def remove(self) -> None:
        """See `Places`."""

    def address(self, number: int) -> str:
        """See `Places`."""
        return f"127.0.0.{9 + number}"

    def port(self, usual: int) -> int:
        """See `Places`."""
        if usual not in self.ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.ports[usual] = probe.getsockname()[1]
        return self.ports[usual]

    def link(self, number: int) -> None:
        """See `Places`."""

    def unlink(self, number: int) -> None:
        """See `Places`."""

    def up(self, number: int, yes: bool) -> None:
        """See `Places`."""

    def inside(self, number: int) -> list[str]:
        """See `Places`."""
        return ["env", f"{MARK}={self.cluster}.{number}"]

    def processes(self, number: int) -> list[int]:
        """See `Places`."""
        found = []
        for one in psutil.process_iter():
            try:
                if one.environ().get(MARK) == f"{self.cluster}.{number}":
                    found.append(one.pid)
            except psutil.Error:
                continue
        return found


def places() -> tuple[Places | None, str]:
    """The best that can be made here, and what it lacks; None: nothing can."""
    if sys.platform != "linux":
        return None, "several machines on one need Linux"
    if os.environ.get("COUNTRYREWARD_TEST_PLACES") == "loopback":
        return Loopback(), "COUNTRYREWARD_TEST_PLACES asks for loopback"
    if shutil.which("ip") is None:
        return Loopback(), "network namespaces need iproute2 (apt-get install iproute2)"
    made = subprocess.run(["ip", "netns", "add", "cr-probe"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", "cr-probe"], capture_output=True)
    if made.returncode:
        return Loopback(), f"network namespaces need root: {made.stderr.strip()}"
    return Namespaces(), ""
