"""Requests made from the service's own OpenAPI by schemathesis, some with real images in place of random bytes."""

import json
import urllib.request
import warnings
from collections import Counter
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from schemathesis.generation import GenerationMode

from tests.unit.hostile_http import fault

_ROUNDS = 100


def call_by_schema(
    url: str, key: str, count: int, pictures: tuple[bytes, bytes], most_at_once: int
) -> tuple[Counter, list[str]]:
    """Exactly so many requests, every operation in turn, half of them as the schema says and half against it.

    Their statuses by operation, and what was wrong. most_at_once: of one operation before the next has its turn.
    """
    headers = {"Authorization": f"Bearer {key}"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/openapi.json", headers=headers)) as answer:
        schema = schemathesis.openapi.from_dict(json.load(answer))
    operations = [operation.ok() for operation in schema.get_all_operations()]  # pyright: ignore[reportAttributeAccessIssue]
    told: Counter = Counter()
    faults: list[str] = []
    with requests.Session() as session:
        for number in range(_ROUNDS):
            for operation in operations:
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    left = min(most_at_once, count - told.total())
                    if left <= 0:
                        return told, faults
                    _ask(operation, mode, number, left, url, headers, session, pictures, told, faults)
    raise AssertionError(f"only {told.total()} requests in {_ROUNDS} rounds")


def _ask(operation, mode, number, left, url, headers, session, pictures, told, faults) -> None:
    sent = 0

    @seeded(number)
    @settings(
        max_examples=left,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        nonlocal sent
        if sent == left:
            return
        sent += 1
        try:
            if sent % 3 == 0 and isinstance(case.body, dict) and {"image_a", "images"} & set(case.body):
                answer = session.post(url + case.path, headers=headers, timeout=60, **_with_images(case.body, pictures))
                told_headers = list(answer.headers.items())
            else:
                answer = case.call(base_url=url, headers=headers, session=session, timeout=60)
                told_headers = [(name, value) for name, values in answer.headers.items() for value in values]
        except (requests.exceptions.InvalidHeader, UnicodeError, ValueError):  # what the library refuses to send
            sent -= 1
            return
        told[f"{operation.label} {answer.status_code}"] += 1
        if wrong := fault(
            answer.status_code, told_headers, answer.content if case.method != "HEAD" else b"", "zqnothingqz"
        ):
            faults.append(f"{operation.label}: {wrong}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ask()
        except Exception as error:  # a schema whose negation is empty has no case
            if type(error).__name__ != "Unsatisfiable":
                raise


def _with_images(body: dict[str, Any], pictures: tuple[bytes, bytes]) -> dict[str, Any]:
    """The same text with real images, so that it reaches the model; for `requests`."""
    names = ("images", "images") if "images" in body else ("image_a", "image_b")
    texts = {name: body[name] for name in ("title", "category", "tags", "product_id") if body.get(name)}
    texts |= {} if str(texts.get("title", "")).strip() else {"title": "Lamp"}
    return {"data": texts, "files": [(name, ("a.png", data)) for name, data in zip(names, pictures, strict=True)]}
