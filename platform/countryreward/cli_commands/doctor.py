"""`countryreward doctor`: what is installed, what the machine has, and for each thing wrong the way out."""

import os
import shutil
import socket
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from countryreward.machine import describe_machine

PACKAGES = (
    "torch",
    "transformers",
    "ray",
    "faiss-cpu",
    "faiss-gpu",
    "pyarrow",
    "numpy",
    "pandas",
    "opencv-python-headless",
    "pillow",
)
PORTS = {8265: "Ray's dashboard", 6379: "a Ray head", 8000: "Ray Serve"}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    subject: str
    state: str
    way_out: str = ""
    """Empty: nothing is wrong."""
    fatal: bool = False


def examine(folder: Path) -> list[Finding]:
    """Look at everything; `folder` is where runs would be written."""
    return [*_software(), *_hardware(folder), *_gpu(), *_ports(), *_ray_auth()]


def doctor(folder: Path | None = None) -> int:
    """Print the findings. Returns 1 when something would stop the demo, else 0."""
    findings = examine(folder or Path.cwd())
    for finding in findings:
        mark = "ok " if not finding.way_out else "BAD" if finding.fatal else "!  "
        print(f"{mark} {finding.subject:<24} {finding.state}")
        if finding.way_out:
            print(f"    {'':<24} -> {finding.way_out}")
    fatal = sum(finding.fatal and bool(finding.way_out) for finding in findings)
    print("nothing stands in the way of `make demo`" if not fatal else f"{fatal} thing(s) to mend before `make demo`")
    return 1 if fatal else 0


def _software() -> list[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    findings = [
        Finding(
            "python",
            python,
            "" if (3, 11) <= sys.version_info < (3, 14) else "use Python 3.11, 3.12 or 3.13",
            fatal=True,
        )
    ]
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    for name, version in versions.items():
        if name.startswith("faiss"):
            continue
        findings.append(
            Finding(
                name, version or "missing", "" if version else "run `make demo`, or pip install -e '.[cpu]'", fatal=True
            )
        )
    both = [name for name in ("faiss-cpu", "faiss-gpu") if versions[name]]
    way_out = {
        0: "pip install -e '.[cpu]' (or '.[gpu]')",
        1: "",
        2: "pip uninstall one of faiss-cpu, faiss-gpu: both provide `faiss`",
    }
    findings.append(
        Finding(
            "faiss", ", ".join(f"{name} {versions[name]}" for name in both) or "missing", way_out[len(both)], fatal=True
        )
    )
    return findings


def _hardware(folder: Path) -> list[Finding]:
    machine = describe_machine()
    free_memory = psutil.virtual_memory().available / 2**30
    free_disk = shutil.disk_usage(folder).free / 2**30
    findings = [
        Finding("cores", f"{machine['cores']} ({machine['processor']})"),
        Finding(
            "memory",
            f"{free_memory:.1f} of {machine['memory_gib']} GiB free",
            "" if free_memory > 3 else "the demo wants 3 GiB: close something",
        ),
        Finding(
            "disk", f"{free_disk:.0f} GiB free", "" if free_disk > 4 else "the demo wants 4 GiB: free some", fatal=True
        ),
        Finding(
            "folder",
            "writable" if os.access(folder, os.W_OK) else "not writable",
            "" if os.access(folder, os.W_OK) else "run from a folder you may write to",
            fatal=True,
        ),
    ]
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free / 2**30
        findings.append(
            Finding(
                "shared memory",
                f"{free:.1f} GiB",
                "" if free > 0.6 else "Ray's object store wants 0.6 GiB: docker run --shm-size=2g",
            )
        )
    return findings


def _gpu() -> list[Finding]:
    try:
        import torch
    except ImportError:
        return []
    if not torch.cuda.is_available():
        return [Finding("gpu", "none; everything runs on the processor")]
    return [
        Finding(
            "gpu",
            f"{torch.cuda.get_device_name(i)}, {torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB",
        )
        for i in range(torch.cuda.device_count())
    ]


def _ports() -> list[Finding]:
    findings = []
    for port, use in PORTS.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                findings.append(Finding(f"port {port}", f"free for {use}"))
            except OSError:
                findings.append(Finding(f"port {port}", "taken", f"{use} would want it; the demo does not need it"))
    return findings


def _ray_auth() -> list[Finding]:
    mode = os.environ.get("RAY_AUTH_MODE", "disabled")
    if mode == "token":
        return [Finding("ray auth", "token")]
    text = "a local Ray listens on loopback only; before you start a cluster: export RAY_AUTH_MODE=token (docs/security.md)"
    return [Finding("ray auth", mode, text)]
