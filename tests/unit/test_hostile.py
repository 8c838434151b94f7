"""Hostile requests, images and titles, a few of each; tests/torture/test_hostile_service.py sends thousands to a real service."""

import asyncio
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from countryreward.data.decoding import ImageError, read_image
from countryreward.models.reward_prompts import PairFields
from countryreward.serving.durable_jobs.batch.batch_runner import BatchJobs
from countryreward.serving.http.apps import create_app
from countryreward.serving.http.keys import KeyStore
from countryreward.serving.http.rates import Rates
from countryreward.serving.http.request_guard import ProxyMiddleware
from countryreward.serving.service_config import ServiceConfig
from tests.unit.asgi import call
from tests.unit.hostile_http import (
    Hostile,
    hostile_requests,
    listening,
    marked_out,
    number_of_kinds,
    send,
    send_all,
    slow_callers,
)
from tests.unit.hostile_images import KINDS, animation, hostile_images, many_scans, noisy, png
from tests.unit.hostile_titles import hostile_titles
from tests.unit.in_threads import ThreadedScorer
from tests.unit.micro_qwen import SPECIAL, WORDS, builder, fields
from tests.unit.schema_calls import call_by_schema
from tests.unit.test_gate import Known

pytestmark = pytest.mark.slow  # `make check` has 90 seconds for everything

LIMITS = {"max_bytes": 20 * 2**20, "max_pixels": 25_000_000}
CONTROL = {WORDS[token] for token in SPECIAL}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """(port, key) of the app as replicas run it, with a scorer that always says the same."""
    config = ServiceConfig(state=str(tmp_path_factory.mktemp("hostile") / "state"))
    keys = KeyStore(Path(config.state) / "keys.json", 1e-9)
    key = keys.create("acme", ("score", "batch", "metrics"), "1000000/second")
    asked = ThreadedScorer(Known(), ["KR", "BR"], {"model": "m1"})
    app = create_app(
        asked, config, keys=keys, rates=Rates.of(config), metrics=lambda: b"m 1\n", jobs=BatchJobs(asked, config)
    )
    with listening(app) as port:
        yield port, key


@pytest.mark.slow
def test_three_hundred_requests_of_the_schema(service):
    port, key = service
    told, faults = call_by_schema(f"http://127.0.0.1:{port}", key, 300, (noisy("PNG", 1), noisy("PNG", 2)), 15)
    assert not faults
    assert told.total() == 300
    assert any(one.endswith(" 200") for one in told)


def test_every_kind_of_hostile_request_is_refused_politely(service):
    port, key = service
    told = send_all(port, hostile_requests(2 * number_of_kinds(), key, noisy("PNG", 1)))
    assert [marked_out(one) for one in told.faults] == []
    assert set(told.by_kind["never arrives"]) == {"none"}
    assert set(told.by_kind["huge lengths"]) == {413}
    assert not {200, 202} & set(told.by_kind["bodies of JSON"])


def test_slow_callers_hold_nobody_up(service):
    assert slow_callers(*service, count=20, seconds=1) > 0


@pytest.mark.parametrize(
    "more",
    [
        b"X-Request-ID: \xff\xfe\x80",
        b"X-Request-ID: zqmark zq",
        b"serve_multiplexed_model_id: \xff",
        b"Serve-Multiplexed-Model-Id: x",
        b"x-session-id: \xff",
        b"X_Session_ID: x",
    ],
)
def test_what_rays_proxy_would_read_does_not_reach_it(more):
    async def proxy(scope, receive, send):
        sent = {name: value.decode() for name, value in scope["headers"]}  # as Ray's does
        assert set(sent) == {b"x-request-id", b"host"}
        headers = [(b"content-type", b"text/plain"), (b"x-request-id", sent[b"x-request-id"].encode())]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": b"Request dropped"})

    name, _, value = more.partition(b": ")
    answered = call(ProxyMiddleware(proxy), "GET", "/", [("host", "x"), (name, value)])
    assert (answered.code(), answered.status, answered.header("retry-after")) == ("busy", 503, "1")
    assert b"zqmark" not in answered.body + str(answered.headers).encode()


def test_rays_list_of_applications_is_closed():
    async def proxy(scope, receive, send):
        raise AssertionError("it was asked")

    assert call(ProxyMiddleware(proxy), "GET", "/-/routes", [("host", "x")]).code() == "not_found"


def test_what_rays_proxy_raises_is_500_in_our_words():
    async def proxy(scope, receive, send):
        raise RuntimeError("zqmark")

    messages = []

    async def go() -> None:
        async def told(message):
            messages.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        with pytest.raises(RuntimeError):
            await ProxyMiddleware(proxy)(scope, None, told)  # pyright: ignore[reportArgumentType]

    asyncio.run(go())
    assert messages[0]["status"] == 500
    assert b'"internal"' in messages[1]["body"]


# Images


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged EXIF
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_images_are_read_or_refused(kind):
    names, reasons = list(KINDS), []
    for number, (made, build) in enumerate(hostile_images(3 * len(KINDS))):
        if made != kind:
            continue
        assert names[number % len(names)] == kind
        try:
            facts, picture = read_image(build(), **LIMITS)
            assert picture.mode == "RGB"
            assert (facts.width, facts.height) == picture.size
        except ImageError as refused:
            reasons.append(refused.reason)
    assert set(reasons) <= {"undecodable_image", "pixel_bomb", "unsupported_format", "image_too_large"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(2**31 - 1, 2**31 - 1), "pixel_bomb"),
        (png(5_001, 5_000), "pixel_bomb"),
        (png(0, 0), "undecodable_image"),
        (many_scans(50_000, 1), "undecodable_image"),
        (b"", "undecodable_image"),
        (b"GIF89a", "unsupported_format"),
    ],
)
def test_why_an_image_is_refused(data, reason):
    with pytest.raises(ImageError) as refused:
        read_image(data, **LIMITS)
    assert refused.value.reason == reason


def test_what_a_phone_hangs_behind_a_jpeg_is_no_scan_of_it():
    plain = many_scans(3, 1)
    facts, picture = read_image(plain + b"film \xff\xda" * 500 + plain * 40, **LIMITS)
    assert picture.tobytes() == read_image(plain, **LIMITS)[1].tobytes()
    assert facts.format == "JPEG"


def test_a_jpeg_of_many_but_not_too_many_scans_is_read():
    facts, _ = read_image(many_scans(80, 1), **LIMITS)
    assert (facts.format, facts.width) == ("JPEG", 256)


def test_of_an_animation_the_first_frame_is_read():
    assert read_image(animation("PNG", 200, 1), **LIMITS)[0].width == 16


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *((mode, "PNG") for mode in ("RGB", "RGBA", "L", "LA", "P", "I;16")),
        *((mode, "JPEG") for mode in ("RGB", "L", "CMYK")),
        *((mode, "WEBP") for mode in ("RGB", "RGBA", "L", "LA", "P")),
    ],
)
def test_the_pixels_are_those_of_pillow(mode, kind):
    """In bands of rows as if in one piece, turned as EXIF says."""
    base = Image.frombytes(
        "RGBA", (40, 150), np.random.default_rng(1).integers(0, 256, 24_000, dtype=np.uint8).tobytes()
    )
    picture = (
        Image.fromarray(np.asarray(base)[..., 0].astype(np.uint16) * 257) if mode == "I;16" else base.convert(mode)
    )
    for orientation, turn in {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.items():  # fmt: skip
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = io.BytesIO()
        picture.save(file, kind, exif=exif)
        stored = Image.open(file)
        if mode == "I;16":
            flat = Image.fromarray((np.asarray(stored) / 257).astype(np.uint8))
        elif stored.has_transparency_data:
            flat = Image.alpha_composite(Image.new("RGBA", stored.size, "white"), stored.convert("RGBA"))
        else:
            flat = stored
        expected = flat.convert("RGB")
        expected = expected if turn is None else expected.transpose(turn)
        _, got = read_image(file.getvalue(), **LIMITS)
        assert (got.mode, got.size) == ("RGB", expected.size)
        assert got.tobytes() == expected.tobytes()


# Titles


def test_no_title_brings_a_control_token():
    prompts = builder()

    def control(title: str) -> list[int]:
        ids = prompts.example(PairFields(**{**vars(fields()), "title": title})).ids
        return [int(one) for one in ids if one in CONTROL]

    titles = [
        one for one in hostile_titles(["Red bag", "Oak desk lamp"], 100) if one[0] not in ("other markets", "too long")
    ]
    clean = control("Red bag")
    assert Counter(clean)[WORDS["<|image_pad|>"]] == 8
    for _, _, _, title in titles:
        assert control(title) == clean


def test_an_ordinary_request_still_answers(service):
    port, key = service
    asked = Hostile(
        "ordinary", "zqnonezq", f"GET /v1/markets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    )
    answer = send(port, asked)
    assert answer is not None
    assert answer[0] == 200
