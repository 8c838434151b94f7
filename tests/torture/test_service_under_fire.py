"""The service while replicas are killed, versions change and ten times too much is asked. Prints every figure.

make torture        # the machine should do nothing else meanwhile
"""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from countryreward.client import Client
from countryreward.machine import describe_machine
from tests.cluster.demo_run import Run
from tests.cluster.service_harness import (
    TOKENS,
    Load,
    Outcome,
    Service,
    publish_emulated,
    service,
    small_pair,
    wait_until,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
Pairs = tuple[tuple[str, str, str], ...]
RATE, SECONDS, EVERY = 50, 60, 10


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    print(f"\n{describe_machine()}; service, model and who asks share it")
    with service(tmp_path_factory.mktemp("service"), cpus=8) as started:
        yield started


@pytest.fixture(scope="module")
def pair(running: Service) -> Pairs:
    return small_pair(running.state.parent)


def emulated(running: Service, name: str, pass_s: float = 0.02) -> Path:
    """A link of its own to a version of the same name."""
    folder = running.state.parent / name
    folder.mkdir()
    return publish_emulated(folder / "model", name, pass_s)


def pairs_of(demo: Run) -> Pairs:
    """Forty products, each with its first two images."""
    export = demo.folder / "export"
    names = pd.read_csv(export / "creatives.csv").groupby("product_id")["image_uri"].agg(list)
    products = pd.read_csv(export / "products.csv").head(40).to_dict("records")
    images = [[str(export / "images" / name) for name in names[row["product_id"]]] for row in products]
    return tuple((row["title"], a, b) for row, (a, b, *_) in zip(products, images, strict=True))


def under_kills(running: Service, load: Load) -> tuple[Outcome, list[int]]:
    """A replica dies every ten seconds. Also how many answered when it did."""
    rng, there = random.Random(1), []

    def kill() -> None:
        begun = time.monotonic()
        for number in range(SECONDS // EVERY):
            time.sleep(max(0.0, begun + (number + 0.5) * EVERY - time.monotonic()))
            there.append(running.running())
            rng.choice(running.replicas()).kill()

    killer = threading.Thread(target=kill)
    killer.start()
    outcome = load.wait()
    killer.join()
    wait_until(lambda: running.running() == 3, 120)
    return outcome, there


@pytest.mark.parametrize(("model", "p99_s"), [("emulated", 1), ("tiny", 3)])
def test_a_replica_killed_every_ten_seconds_fails_nothing(running: Service, demo: Run, pair: Pairs, model, p99_s):
    if model == "emulated":
        running.deploy(emulated(running, "killed"), num_replicas=3)
    else:
        running.deploy(demo.model, emulated=False, num_replicas=3)
        pair = pairs_of(demo)
    outcomes = {}
    for retries in (True, False):
        load = running.load(pair, rate=RATE, seconds=SECONDS, retries=retries)
        outcomes[retries], there = under_kills(running, load)
        how = "through the client" if retries else "without retries"
        print(f"{model} model, {len(there)} SIGKILLs, {there} of 3 replicas there, {how}: {outcomes[retries]}")
    assert len(outcomes[True].answers) == 3_000
    assert outcomes[True].failed == []
    assert outcomes[True].ms(0.99) <= p99_s * 1e3


def test_every_way_to_another_version_fails_nothing(running: Service, pair: Pairs):
    old = emulated(running, "old")
    running.deploy(old, num_replicas=3)

    load = running.load(pair, rate=RATE, seconds=15)
    time.sleep(3)
    publish_emulated(old, "in-place")
    taken = load.wait()
    print(f"newer model taken in place: {taken}; {old_and_new(taken, 'old', 'in-place')}")

    new = emulated(running, "new")
    load = running.load(pair, rate=RATE, seconds=60)
    time.sleep(3)
    begun = time.monotonic()
    running.deploy(new, num_replicas=3)
    took = time.monotonic() - begun
    rolled = load.wait()
    print(f"rolling deploy in {took:.0f} s: {rolled}; {old_and_new(rolled, 'in-place', 'new')}")

    broken = running.state.parent / "unloadable"
    broken.mkdir()
    publish_emulated(broken / "model", "unloadable", broken=True)
    load = running.load(pair, rate=RATE, seconds=60)
    time.sleep(3)
    begun = time.monotonic()
    with pytest.raises(RuntimeError):
        running.deploy(broken / "model", num_replicas=3)
    took = time.monotonic() - begun
    kept = load.wait()
    print(f"deploy of what cannot be loaded given up after {took:.0f} s, {running.running()} of 3 go on: {kept}")

    assert taken.failed == rolled.failed == kept.failed == []
    assert set(kept.versions()) == {"new"}
    assert running.running() == 3


def old_and_new(outcome: Outcome, old: str, new: str) -> str:
    versions = outcome.versions()
    assert set(versions) == {old, new}
    assert (versions[0], versions[-1]) == (old, new)
    mixed = len(versions) - versions.index(new) - versions[::-1].index(old)
    both_s = max(0, mixed) / RATE
    return f"{versions.count(old)} verdicts of {old}, {versions.count(new)} of {new}; both at a time for {both_s:.1f} s"


def test_ten_times_too_much_is_refused_at_once_and_forgotten(running: Service, pair: Pairs):
    """A slow model, so that two processors can ask it for ten times what it can do: 2 replicas, 2 pairs in .4 s."""
    running.deploy(emulated(running, "slow", 0.4), num_replicas=2, config={"batch_tokens": 2 * TOKENS})
    closed = running.load(pair, closed=8, seconds=10, retries=False).wait()
    capacity = closed.kinds()["ok"] / 10
    normal = running.load(pair, rate=capacity / 2, seconds=20, retries=False).wait()
    begun = time.monotonic()
    over = running.load(pair, rate=capacity * 10, seconds=15, retries=False).wait()
    drained = time.monotonic() - begun
    after = running.load(pair, rate=capacity / 2, seconds=20, retries=False).wait()
    refused = [one for one in over.answers if one.kind == "503"]
    refused_ms = np.array([(one.seconds - one.sent) * 1e3 for one in refused])
    again = next((n for n in range(20) if after.ms(0.99, n) <= 2 * normal.ms(0.99)), 20)
    print(f"capacity {capacity:.1f} requests/s; at half of it {normal}")
    print(
        f"at ten times it {over}; {over.kinds()['ok'] / 15:.1f} served a second; the generator ended after {drained:.0f} s"
    )
    print(
        f"served p99 {over.ms(0.99) / normal.ms(0.99):.2f} of normal (asked: <= 2); "
        f"refused within {np.median(refused_ms):.0f} ms (median), "
        f"{np.quantile(refused_ms, 0.99):.0f} ms (p99), {refused_ms.max():.0f} ms (longest), "
        f"{np.mean(refused_ms <= 100):.2%} within 100 ms"
    )
    print(f"afterwards at half of capacity {after}; normal from second {again} on")
    assert set(over.kinds()) == {"ok", "503"}
    assert all(int(one.retry_after or 0) >= 1 for one in refused)
    assert over.ms(0.99) <= 2 * normal.ms(0.99)
    assert np.quantile(refused_ms, 0.99) <= 100
    assert after.failed == []
    assert again <= 10


def test_replicas_come_and_go_with_what_is_asked(running: Service, pair: Pairs):
    scaling = {
        "min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 2, "upscale_delay_s": 2,
        "downscale_delay_s": 5, "metrics_interval_s": 1, "look_back_period_s": 2,
    }  # fmt: skip
    running.remove()
    running.deploy(emulated(running, "scaled", 0.1), autoscaling_config=scaling, config={"batch_tokens": 4 * TOKENS})
    load = running.load(pair, closed=12, seconds=60)
    up = wait_until(lambda: running.running() == 3)
    busy = load.wait()
    load = running.load(pair, rate=5, seconds=40)
    down = wait_until(lambda: running.running() == 1, 120)
    calm = load.wait()
    print(f"from 1 to 3 replicas in {up:.0f} s: {busy}; back to 1 in {down:.0f} s: {calm}")
    assert busy.failed == calm.failed == []


def holder(running: Service) -> psutil.Process | None:
    """The replica that holds the lease of a batch job."""
    for one in running.replicas():
        if any(Path(opened.path).name == "lease" for opened in one.open_files()):
            return one
    return None


def test_a_batch_job_outlives_the_replicas_that_run_it(running: Service, pair: Pairs):
    running.deploy(emulated(running, "batch"), num_replicas=2, config={"batch_tokens": 2 * TOKENS})
    ((title, a, b),) = pair
    rows = [
        {"row_id": f"r{n:04d}", "title": title, "image_a": Path(a).read_bytes(), "image_b": Path(b).read_bytes()}
        for n in range(2_000)
    ]
    with Client(running.url, running.key) as client:
        job, killed = client.batch(pd.DataFrame(rows), markets=["KR", "BR"]), 0
        for share in (0.1, 0.4, 0.7):
            wait_until(lambda share=share: (job.state().judged or 0) >= share * len(rows), 120)
            if job.job.state == "running" and (victim := holder(running)):
                victim.kill()
                killed += 1
        job.wait(progress=False, poll_s=0.5)
        verdicts, refused = job.verdicts(), job.quarantine()
    print(f"a batch job of {len(rows)} rows, its replica killed {killed} times: {len(verdicts)} verdicts")
    assert killed == 3
    assert len(refused) == 0
    assert sorted(zip(verdicts["row_id"], verdicts["market"], strict=True)) == sorted(
        (row["row_id"], market) for row in rows for market in ("KR", "BR")
    )


def test_serve_listens_on_loopback_alone(running: Service):
    doors = running.doors()
    print(f"listening for HTTP: {doors}")
    assert set().union(*doors.values()) == {"127.0.0.1"}
