"""The studio beside the reward on Ray Serve: signed in through Serve's own way, asking by handle, its tables worked off there."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from countryreward.serving.service_config import ServiceConfig
from countryreward.serving.studio.guests import FILE, GuestStore
from tests.cluster.service_harness import Service, publish_emulated, service, small_pair

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Serve's own


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("service")) as started:
        from ray import serve

        from countryreward.on_ray.deployments.studio_deployment import StudioArgs, build

        model = publish_emulated(started.state.parent / "model", "first")
        started.deploy(model, num_replicas=1)
        config = ServiceConfig(state=str(started.state), poll_s=0.3)
        serve.run(build(StudioArgs(model=str(model), service=config)), name="studio", route_prefix="/studio")
        yield started


def signed_in(running: Service) -> httpx2.Client:
    """As Ana's browser."""
    browser = httpx2.Client(
        base_url=f"{running.url}/studio", headers={"X-Studio": "1", "Origin": running.url}, timeout=30
    )
    code = GuestStore(running.state / FILE, 0).invite("shop", "Ana")
    assert browser.post("/api/session", json={"code": code}).status_code == 204
    return browser


def test_a_guest_compares_pictures_and_a_table(running: Service):
    assert httpx2.get(f"{running.url}/studio/api/me").status_code == 401
    browser = signed_in(running)
    for _ in range(50):
        if browser.get("/readyz").status_code == 200:
            break
        time.sleep(0.2)
    assert [one["name"] for one in browser.get("/api/me").json()["markets"]] == [
        "Brazil",
        "France",
        "South Korea",
        "United States",
    ]
    sample = browser.get("/api/sample")
    assert (sample.status_code, len(sample.json()["markets"])) == (200, 4)
    ((_, first, second),) = small_pair(running.state.parent)
    files = [("pictures", (name, Path(name).read_bytes())) for name in (first, second)]
    made = browser.post("/api/results", data={"title": "Lamp", "markets": ["KR"]}, files=files)
    assert made.status_code == 201
    assert [(one["market"], one["words"]) for one in made.json()["markets"]] == [("KR", "not sure")]
    refused = browser.post(
        "/api/results", data={"title": "Lamp"}, files=[files[0], ("pictures", ("b.png", b"no picture"))]
    )
    assert (refused.status_code, "Picture 2" in refused.json()["error"]["message"]) == (422, True)


def test_serve_puts_the_page_under_its_prefix(running: Service):
    bare = httpx2.get(f"{running.url}/studio")
    assert (bare.status_code, bare.headers["location"]) == (308, "/studio/")
    page = httpx2.get(f"{running.url}/studio/")
    assert page.headers["cache-control"] == "no-store"
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for asset in re.findall(r'"(assets/[^"]+)"', page.text):
        answered = httpx2.get(f"{running.url}/studio/{asset}")
        assert (answered.status_code, answered.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
    cookie = signed_in(running).cookies.jar
    assert [(one.path, one.has_nonstandard_attr("HttpOnly")) for one in cookie] == [("/studio", True)]
