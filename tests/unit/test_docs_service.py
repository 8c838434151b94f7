"""docs/api.md, operations.md and security.md say what the code does: codes, routes, options, metrics, alarms, files."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from fastapi import FastAPI
from fastapi.routing import APIRoute

from countryreward.api.schemas import BatchJob, GenerationJob
from countryreward.client import AsyncClient, Client
from countryreward.serving.durable_jobs.batch.batch_runner import BatchJobs
from countryreward.serving.durable_jobs.generation.generation_routes import create_generator_app
from countryreward.serving.durable_jobs.generation.generation_runner import GenerationJobs
from countryreward.serving.http import gate, keys
from countryreward.serving.http.apps import create_app
from countryreward.serving.http.keys import KeyStore
from countryreward.serving.http.problems import CODES
from countryreward.serving.http.prometheus_metrics import Prometheus
from countryreward.serving.http.rates import Rates
from countryreward.serving.http.request_log import RequestRecord
from countryreward.serving.service_config import ServiceConfig, services_with
from tests.unit.in_threads import ThreadedScorer
from tests.unit.literal_renderer import LiteralRenderer

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("api", "operations", "security")}
FORM_FIELDS = 24  # of /v1/score, /v1/rank and /v1/batch together


def section(page: str, title: str) -> str:
    """From a heading to the next one of any level."""
    return re.split(r"^#+ ", PAGES[page].partition(f"# {title}\n")[2], flags=re.MULTILINE)[0]


@pytest.fixture
def app(tmp_path: Path):
    """The app with every route."""
    config = ServiceConfig(state=str(tmp_path))
    asked = ThreadedScorer(None, ["KR"])  # pyright: ignore[reportArgumentType] - nothing is asked
    return create_app(
        asked,
        config,
        keys=KeyStore(tmp_path / keys.FILE, 1),
        rates=Rates("memory://"),
        metrics=lambda: b"",
        jobs=BatchJobs(asked, config),
    )


@pytest.fixture
def generator(tmp_path: Path):
    """The generator's app with every route."""
    config = ServiceConfig(state=str(tmp_path))
    jobs = GenerationJobs(LiteralRenderer(), config)
    keyed = {"keys": KeyStore(tmp_path / keys.FILE, 1), "rates": Rates("memory://")}
    return create_generator_app(jobs, config, metrics=lambda: b"", **keyed)


def test_every_error_has_its_line() -> None:
    told = re.findall(r"^\| `(\w+)` \| (\d+) \| (.*) \|$", section("api", "Errors"), re.MULTILINE)
    assert {code: (int(status), text) for code, status, text in told} == CODES


def test_every_route_has_a_line_and_a_curl(app) -> None:
    check_routes(app, 13)


def test_every_route_of_the_generator_has_a_line_and_a_curl(generator) -> None:
    check_routes(generator, 9)
    assert "scope `generate`" in section("api", "Generate")


def check_routes(app: FastAPI, count: int) -> None:
    routes = {
        (method, route.path) for route in app.routes if isinstance(route, APIRoute) for method in route.methods or ()
    }
    assert len(routes) == count
    for method, path in routes:
        assert f"`{method} {path}`" in PAGES["api"] or f"`{method} {path}`," in PAGES["api"], (method, path)
        asked = re.escape(path.replace("{job_id}", "$JOB").replace("{n}", "0"))
        assert re.search(rf'curl (.|\\\n)*?\$URL{asked}(["?; \n]|$)', PAGES["api"]), path
    assert "`GET /openapi.json`" in PAGES["api"]  # no APIRoute


def test_scopes_of_routes_are_as_told() -> None:
    told = dict(
        re.findall(r"^\| `GET (/[\w./]+)` \| (.*?) \|", section("api", "Markets, models, health"), re.MULTILINE)
    )
    for path, scopes in told.items():
        needed = () if path in gate.EXEMPT else gate.NEEDS[path]
        assert scopes == (" or ".join(f"`{scope}`" for scope in needed) or "none"), path
    for title, path in (("Score", "/v1/score"), ("Rank", "/v1/rank")):
        assert f"`POST {path}`, scope `{gate.NEEDS[path][0]}`" in section("api", title)


def test_every_form_field_is_explained(app, generator) -> None:
    table = section("api", "Fields and limits")
    for one, count in ((app, FORM_FIELDS), (generator, 13)):
        schemas = one.openapi()["components"]["schemas"]
        names = {name for key, body in schemas.items() if key.startswith("Body_") for name in body["properties"]}
        assert len(names) == count
        for name in names:
            assert f"`{name}`" in table, name
    for name in GenerationJob.model_fields:
        assert f"`{name}`" in section("api", "Generate"), name
    for name in BatchJob.model_fields:
        assert f"`{name}`" in PAGES["api"] or f'"{name}"' in PAGES["api"], name


def test_every_option_has_its_line_with_its_default() -> None:
    lines = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| .+ \|$", section("operations", "Options"), re.MULTILINE)
    assert [name for name, _, _ in lines] == [option.name for option in fields(ServiceConfig)]
    config = ServiceConfig()
    for name, text, services in lines:
        owners = services_with(name)
        assert services == ("all" if len(owners) == 3 else ", ".join(owners)), name
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            assert text == (
                "empty" if value == "" else f"`{value}`" if isinstance(value, str) else str(value).lower()
            ), name
        else:
            factor, _, unit = text.replace(",", "").partition(" x ")
            assert float(factor) * (2**20 if unit == "2^20" else 1) == value, name


def test_limits_of_callers_are_the_defaults() -> None:
    config, table = ServiceConfig(), section("api", "Fields and limits")
    for name, text in (
        ("max_image_bytes", "20 MiB"),
        ("max_pixels", "25,000,000"),
        ("max_images", "20"),
        ("max_verdicts", "2,000"),
        ("max_text", "4,000 each"),
        ("max_evidence", "40"),
        ("max_table_bytes", "512 MiB"),
        ("max_table_rows", "1,000,000"),
        ("max_jobs", "4"),
        ("max_generations", "8"),
        ("max_designs", "16"),
        ("max_px", "1,024"),
        ("max_steps", "50"),
        ("max_body_memory", "256 MiB"),
    ):
        assert re.search(rf"^\|[^|]*\| {re.escape(text)} \| `{name}` \|", table, re.MULTILINE), name
        number = float(text.replace(",", "").split()[0]) * (2**20 if text.endswith("MiB") else 1)
        assert number == getattr(config, name), name


def test_every_metric_has_its_line() -> None:
    prometheus = Prometheus()
    prometheus.request(
        RequestRecord(
            request_id="0123456789abcdef",
            tenant=None,
            key_id=None,
            method="GET",
            route="/readyz",
            status=200,
            seconds=0.1,
            verdicts=0,
            bytes_in=0,
            bytes_out=0,
        )
    )
    prometheus.cache(hit=True)
    text = prometheus.text().decode()
    counted = {}
    for name, labels in re.findall(r"^(countryreward_\w+?)(?:\{(.*?)\})? \S+$", text, re.MULTILINE):
        if not name.endswith("_created"):
            plain = re.sub(r"_(bucket|sum|count)$", "", name)
            counted.setdefault(plain, set()).update(set(re.findall(r'(\w+)="', labels)) - {"le"})
    table = section("operations", "Metrics")
    told = dict(re.findall(r"^\| `(countryreward_\w+)` \| (.*?) ?\| .+ \|$", table, re.MULTILINE))
    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in told.items()} == counted


def test_every_alarm_has_its_line() -> None:
    alarms = yaml.safe_load((ROOT / "cluster" / "monitoring" / "alarms.yml").read_text(encoding="utf-8"))
    rules = [rule for group in alarms["groups"] for rule in group["rules"]]
    told = re.findall(r"^\| `(\w+)` \| (\w+) \| .+ \|$", section("operations", "Alarms"), re.MULTILINE)
    assert told == [(rule["alert"], rule["labels"]["severity"]) for rule in rules]


def test_every_field_of_the_log_is_explained() -> None:
    table = section("operations", "Logs")
    for name in ("event", "time", "ms", *(one.name for one in fields(RequestRecord) if one.name != "seconds")):
        assert re.search(rf"^\|[^|]*`{name}`[^|]*\|", table, re.MULTILINE), name


def test_methods_of_the_client_are_told() -> None:
    told = section("api", "Python client")
    public = {name for name in vars(Client) if not name.startswith("_")} - {"close"}
    for name in public:
        assert re.search(rf"\b{name}\(", told), name
        assert hasattr(AsyncClient, name)


def test_links_and_files_exist() -> None:
    for page, text in PAGES.items():
        for target, anchor in re.findall(r"\]\(((?:\.\./)?[\w.]*)#?([\w-]*)\)", text):
            other = ROOT / "docs" / (target or f"{page}.md")
            assert other.is_file(), target
            headings = re.findall(r"^#+ (.*)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert not anchor or anchor in slugs, (page, target, anchor)
        for name in re.findall(r"`((?:tests|serve_apps|jobs|cluster|docs|benchmarks)/[\w./]+\.\w+)`", text):
            assert (ROOT / name).is_file(), (page, name)
        for name in re.findall(r"`((?:serving|data|models|scoring|training|on_ray|retrieval)/[\w./]+\.py)`", text):
            assert (ROOT / "platform" / "countryreward" / name).is_file(), (page, name)
