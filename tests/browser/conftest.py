"""A real headless Chromium, and the studio over the demo's model: of runs/demo where there is one, else of a shrunken run."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.studio_server import Studio, studio

ROOT = Path(__file__).parents[2]
WEB = ROOT / "platform" / "countryreward" / "serving" / "studio"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser; skips with the reason where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Path:
    """A run folder with a model, and the export it was trained on."""
    there = ROOT / "runs" / "demo"
    return there if (there / "model").exists() else request.getfixturevalue("demo").folder


@pytest.fixture(scope="session")
def running(chromium: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """The studio, which has answered once: a replica that is loaded has run its probe."""
    if not (WEB / "web" / "node_modules" / ".package-lock.json").is_file():  # which npm writes when it has all packages
        pytest.skip("the page's packages could not be had: make studio")
    assert (WEB / "static" / "index.html").is_file(), "the page is not built: make studio"
    from countryreward.serving.inference.hot_reload import Published
    from countryreward.serving.inference.load_engine import load_reward
    from countryreward.serving.metrics_observer import MetricsObserver
    from countryreward.serving.service_config import ServiceConfig
    from countryreward.serving.studio.sample import campaign_of

    asked = load_reward(Published.at(str(folder / "model"), ""), ServiceConfig(), "cpu", MetricsObserver())
    with studio(asked, campaign_of(folder / "model"), tmp_path_factory.mktemp("studio") / "state") as started:
        yield started


class Visit:
    """A browser of its own with one page, which remembers what went wrong and who was asked."""

    def __init__(self, context: Any, studio: Studio) -> None:
        self.context, self.studio = context, studio
        self.page = context.new_page()
        self.faults: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda one: one.type in ("error", "warning") and self.faults.append(one.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("dialog", lambda dialog: dialog.accept())

    def sign_in(self, link: str = "") -> Any:
        """Through an invitation to the first room."""
        self.page.goto(link or self.studio.link())
        self.page.get_by_role("button", name="Open the studio").click()
        self.page.get_by_role("heading", name="Which picture wins where?").wait_for()
        self.page.locator(".sample .card").first.wait_for()
        return self.page

    def shot(self, name: str, **options: Any) -> None:
        """Keep a picture of the page where COUNTRYREWARD_SCREENSHOTS names a folder."""
        if folder := os.environ.get("COUNTRYREWARD_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder) / f"{name}.png", **{"full_page": True} | options)

    def check(self) -> None:
        """Nothing went wrong, and nobody else was asked."""
        assert self.faults == []
        foreign = [url for url in self.asked if not url.startswith((self.studio.url + "/studio/", "blob:"))]
        assert foreign == []
        assert not [url for url in self.asked if "invite=" in url.partition("#")[0] or "cs_" in url]


@pytest.fixture
def visit(chromium: Any, running: Studio) -> Iterator[Callable[..., Visit]]:
    """`visit(width=360, dark=True)`: somebody comes, with a browser of their own."""
    contexts = []

    def come(width: int = 1280, height: int = 900, dark: bool = False) -> Visit:
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        context.set_default_timeout(20_000)
        contexts.append(context)
        return Visit(context, running)

    yield come
    for context in contexts:
        context.close()
