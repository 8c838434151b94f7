"""The generator while its replicas are killed. Prints every figure.

make torture        # the machine should do nothing else meanwhile
"""

import io
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator

import httpx2
import numpy as np
import pytest
from PIL import Image

from countryreward.data.design import Design
from countryreward.machine import describe_machine
from tests.cluster.generator_harness import Generating
from tests.cluster.service_harness import Service, publish_emulated, service, wait_until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
JOBS, EACH, TENANTS = 100, 4, ("acme", "beta", "gamma", "delta")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    print(f"\n{describe_machine()}; service, renderer and who asks share it")
    with service(tmp_path_factory.mktemp("generator"), cpus=8) as started:
        started.deploy(publish_emulated(started.state.parent / "model", "first", 0.002), num_replicas=1)
        yield started


@pytest.fixture(scope="module")
def generating(running: Service) -> Generating:
    return Generating(running)


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 180, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def designs(count: int) -> list[Design]:
    return [
        Design(foreground=f"Ribbon {n}.", background="A beach.", color_tone="Warm.", lighting="Golden.")
        for n in range(count)
    ]


def test_hundred_jobs_and_three_kills_lose_and_double_nothing(generating: Generating):
    generating.deploy(pause_s=0.1, num_replicas=2, config={"max_generations": JOBS})
    clients = {tenant: generating.client(tenant) for tenant in TENANTS}
    sent: dict[str, list[str]] = {tenant: [] for tenant in TENANTS}
    total, begun, deaths = JOBS * EACH, time.monotonic(), []

    def kill() -> None:
        for share in (0.1, 0.4, 0.7):
            wait_until(lambda share=share: len(generating.made()) >= share * total, 300)
            wait_until(lambda: generating.at_work() is not None, 60)
            victim = generating.at_work() or random.choice(generating.replicas())
            victim.kill()
            deaths.append((len(generating.made()), len(generating.replicas())))

    killer = threading.Thread(target=kill)
    killer.start()
    for n in range(JOBS):
        tenant = TENANTS[n % len(TENANTS)]
        options = {"designs": designs(EACH), "markets": ["KR", "BR"], "seed": 10 * n}
        first = clients[tenant].generate(f"Lamp {n}", picture(), idempotency_key=f"job-{n:06d}", **options)
        again = clients[tenant].generate(f"Lamp {n}", picture(), idempotency_key=f"job-{n:06d}", **options)
        assert again.id == first.id
        sent[tenant].append(first.id)
    taken = time.monotonic() - begun
    found = {}
    for tenant, ids in sent.items():
        for job_id in ids:
            found[job_id] = clients[tenant].open_generation(job_id)
            found[job_id].wait(progress=False, poll_s=0.5)
    killer.join()
    took = time.monotonic() - begun
    jobs = [handle.job for handle in found.values()]
    files = {tenant: clients[tenant].generations() for tenant in TENANTS}
    made = Counter(generating.made())
    whole = sum(
        len(handle.save(generating.state.parent / "saved")) for handle in found.values()
    )  # every image can be fetched, and is what its job says
    stored = [one for tenant in TENANTS for one in generating.stored(tenant)]
    metrics = httpx2.get(f"{generating.url}/metrics", headers={"X-API-Key": generating.running.key}).text
    counted = next(line for line in metrics.splitlines() if 'generation_jobs_total{state="done"}' in line)
    print(
        f"{JOBS} jobs of {EACH} designs, each sent twice, in {taken:.0f} s; {len(deaths)} SIGKILLs of the replica at work,"
        f" after {[made for made, _ in deaths]} images: all ended after {took:.0f} s as"
        f" {dict(Counter(job.state for job in jobs))}; {sum(len(job.images) for job in jobs)} images kept of"
        f" {sum(made.values())} rendered, {whole} fetched; {sum(len(job.rankings) for job in jobs)} rankings;"
        f" {len(stored)} job folders; replicas counted: {counted.split()[-1]} done"
    )
    assert len(deaths) == 3
    assert len(found) == len(stored) == JOBS
    assert [len(files[tenant]) for tenant in TENANTS] == [JOBS // len(TENANTS)] * len(TENANTS)
    assert all(one["state"] == "done" and one["starts"] == 0 for one in stored)
    assert all([image.n for image in job.images] == list(range(EACH)) and not job.refused for job in jobs)
    assert all([one.market for one in job.rankings] == ["KR", "BR"] and job.note is None for job in jobs)
    assert whole == total
    assert set(made) == {f"Lamp {n} {10 * n + i}" for n in range(JOBS) for i in range(EACH)}
    assert sum(made.values()) <= total + 3  # what was under way when a replica died is made again, and kept once
    assert JOBS - 3 <= float(counted.split()[-1]) <= JOBS  # ended once; a death between file and counter goes uncounted


def test_a_cancelled_job_frees_its_slot(generating: Generating):
    generating.deploy(pause_s=0.2, num_replicas=1, config={"max_generations": 2, "poll_s": 2.0})
    wait_until(lambda: len(generating.replicas()) == 1)
    time.sleep(2)
    http = httpx2.Client(base_url=generating.url, headers={"X-API-Key": generating.key("epsilon")})
    time.sleep(2)
    freed, gone, freed_ms = [], [], []
    for n in range(5):
        jobs = [send(http, f"Sofa {n} {i}") for i in range(2)]
        assert [answer.status_code for answer in jobs] == [202, 202]
        ids = [answer.json()["job"]["id"] for answer in jobs]
        assert send(http, f"Sofa {n} 2").status_code == 429
        wait_until(lambda ids=ids: state(http, ids[0]) == "running")
        begun = time.monotonic()
        assert http.delete(f"/v1/generate/{ids[0]}").status_code == 204
        third = send(http, f"Sofa {n} 2")
        freed_ms.append((time.monotonic() - begun) * 1e3)
        freed.append(third.status_code)
        wait_until(lambda ids=ids: state(http, ids[1]) == "running")
        gone.append(time.monotonic() - begun)
        for job_id in (ids[1], third.json()["job"]["id"]):
            http.delete(f"/v1/generate/{job_id}")
        wait_until(lambda: generating.at_work() is None)
    print(
        f"5 running jobs cancelled: the next request was taken {[f'{ms:.0f}' for ms in freed_ms]} ms later (with the"
        f" DELETE), the next job ran {[f'{s:.1f}' for s in gone]} s later (poll_s 2, an image .2 s)"
    )
    assert freed == [202] * 5
    assert max(gone) <= 2 + 0.2 + 1  # poll_s, the image under way, and the machine


def send(http: httpx2.Client, title: str) -> httpx2.Response:
    data = {"title": title, "design": [design.as_text() for design in designs(16)]}
    return http.post("/v1/generate", data=data, files={"image": ("a.png", picture())})


def state(http: httpx2.Client, job_id: str) -> str:
    return http.get(f"/v1/generate/{job_id}").json()["job"]["state"]
