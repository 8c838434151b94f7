"""Which Ray a job joins, and that a dead address is said in one line and soon."""

import socket
import time

import pytest

from countryreward.command import SUBMITTED
from countryreward.errors import UserError
from countryreward.on_ray.ray_address import chosen_address, require_answer
from countryreward.on_ray.ray_config import RayConfig


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv(SUBMITTED, raising=False)


@pytest.mark.parametrize(
    ("option", "variable", "submitted", "expected"),
    [
        ("", None, False, "local"),
        ("", "", False, "local"),
        ("", "local", False, "local"),
        ("", "10.0.0.1:6379", False, "10.0.0.1:6379"),
        ("local", "10.0.0.1:6379", False, "local"),
        ("local", "http://127.0.0.1:8265", False, "local"),
        ("10.0.0.2:6379", "10.0.0.1:6379", False, "10.0.0.2:6379"),
        ("auto", None, False, "auto"),
        ("auto", "10.0.0.1:6379", False, "10.0.0.1:6379"),
        ("", None, True, "auto"),
        ("local", "10.0.0.1:6379", True, "10.0.0.1:6379"),
    ],
)
def test_the_option_comes_before_the_variable(
    monkeypatch: pytest.MonkeyPatch, option: str, variable: str | None, submitted: bool, expected: str
) -> None:
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    if submitted:
        monkeypatch.setenv(SUBMITTED, "{}")
    assert chosen_address(RayConfig(address=option)) == expected


@pytest.mark.slow  # imports Ray
@pytest.mark.parametrize("kind", ["closed port", "silent port", "http", "no port", "ray client"])
def test_an_address_without_a_ray_is_refused_with_a_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("countryreward.on_ray.ray_address._ANSWER_WITHIN_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if kind == "closed port":
            server.close()
        address = {"http": f"http://127.0.0.1:{port}", "no port": "somewhere", "ray client": f"ray://127.0.0.1:{port}"}
        monkeypatch.setenv("RAY_ADDRESS", address.get(kind, f"127.0.0.1:{port}"))
        started = time.monotonic()
        with pytest.raises(
            UserError, match=r"^RAY_ADDRESS: '.*; unset RAY_ADDRESS, or write --ray\.address=local"
        ) as caught:
            require_answer(RayConfig())
    assert time.monotonic() - started < 30  # with the import of Ray
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_dead_address_of_the_option_is_named_as_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("countryreward.on_ray.ray_address._ANSWER_WITHIN_S", 1.0)
    with pytest.raises(UserError, match=r"^ray\.address: '127\.0\.0\.1:1' cannot be joined: nothing like Ray answered"):
        require_answer(RayConfig(address="127.0.0.1:1"))
