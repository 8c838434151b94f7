"""A node that is to be taken away says so to Ray, so that trainings write a checkpoint and services move before it is gone.

python -m countryreward.on_ray.preemption --address HEAD:6379            # AWS: beside `ray start`; waits for a spot notice
python -m countryreward.on_ray.preemption --address HEAD:6379 --now 60   # Kubernetes: in preStop; 60 s are left

Ray OSS does not listen for such notices by itself; what happens after one is Ray Train's and Ray Serve's (`ray drain-node`).
"""

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime

METADATA = "http://169.254.169.254"
"""Where an EC2 machine learns of itself (link-local: no other host is ever asked)."""
_NOTICE, _TOKEN = "/latest/meta-data/spot/instance-action", "/latest/api/token"
Open = Callable[[urllib.request.Request], str]


def notice(ask: Open, metadata: str = METADATA) -> datetime | None:
    """When this machine is taken away (UTC); None: nobody has said so. Raises `OSError` where there is no metadata service."""
    token = ask(
        urllib.request.Request(metadata + _TOKEN, method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    )
    try:
        answer = ask(urllib.request.Request(metadata + _NOTICE, headers={"X-aws-ec2-metadata-token": token}))
    except urllib.error.HTTPError as error:
        if error.code == 404:  # no notice
            return None
        raise
    return datetime.fromisoformat(json.loads(answer)["time"])


def drain(address: str, seconds: int) -> None:
    """Tell the cluster at `address` that this node is taken away in so many seconds. Raises `CalledProcessError`."""
    subprocess.run(
        [
            sys.executable, "-m", "ray.scripts.scripts", "drain-node", f"--address={address}",
            "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=this machine is to be taken away",
            f"--deadline-remaining-seconds={max(1, seconds)}",
        ],
        check=True,
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """The command: wait for a notice and tell Ray, or tell it now."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", required=True, help="the head, HOST:PORT")
    parser.add_argument("--now", type=int, default=0, help="do not wait for a notice: so many seconds are left")
    parser.add_argument(
        "--every", type=float, default=5.0, help="seconds between two looks (AWS gives two minutes' notice)"
    )
    parser.add_argument("--metadata", default=METADATA, help="address of the metadata service")
    options = parser.parse_args(arguments)
    if options.now:
        drain(options.address, options.now)
        time.sleep(options.now)  # the pod's processes are ended when preStop returns
        return
    while True:
        try:
            taken = notice(_ask, options.metadata)
            if taken:
                seconds = int((taken - datetime.now(UTC)).total_seconds())
                print(f"preemption: this machine is taken away in {seconds} s; telling {options.address}", flush=True)
                drain(options.address, seconds)
                return
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"preemption: {options.metadata} gave no usable answer ({error}); asking again", file=sys.stderr)
        except subprocess.CalledProcessError as error:
            print(f"preemption: {options.address} could not be told ({error}); trying again", file=sys.stderr)
        time.sleep(options.every)


def _ask(request: urllib.request.Request) -> str:
    with urllib.request.urlopen(request, timeout=2) as answer:
        return answer.read(65_536).decode()


if __name__ == "__main__":
    main()
