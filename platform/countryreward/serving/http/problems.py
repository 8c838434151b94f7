"""What goes wrong over HTTP: a status, a code for programs, a message for people. Nothing that was sent comes back."""

import math
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

from countryreward.data.quarantine import REASONS
from countryreward.errors import UserError

CODES: dict[str, tuple[int, str]] = {
    "missing_key": (401, "send your API key in the header Authorization: Bearer KEY"),
    "invalid_key": (401, "this API key is not known, was revoked or has expired; ask your administrator for another"),
    "signed_out": (401, "you are not signed in to the studio, or no longer; ask for a new invitation link"),
    "forbidden": (403, "this API key may not do that; ask your administrator for one with the scope that is named"),
    "not_found": (404, "there is nothing under this address"),
    "method_not_allowed": (405, "this address does not take this method"),
    "slow_body": (408, "the request's body did not arrive in time; send it again, or a smaller one"),
    "conflict": (409, "this Idempotency-Key was used for another request; send a new one"),
    "too_large": (413, "the request is too large; see docs/api.md for the limits"),
    "invalid_input": (422, "a field is missing or wrong"),
    "invalid_image": (422, "an image cannot be used"),
    "rate_limited": (429, "too many verdicts for this key; wait as long as Retry-After says"),
    "quota": (429, "too many jobs at a time; wait until one of yours has finished"),
    "busy": (503, "more is asked than can be answered now; wait as long as Retry-After says"),
    "starting": (503, "the model is being loaded; try again"),
    "internal": (500, "something went wrong on our side; the request id helps us find it"),
}
"""Every code the service answers with: its status, and its message where there is nothing more exact to say."""


class Problem(Exception):
    """An answer that is an error. `message` is ours alone: it never holds what was sent."""

    def __init__(self, code: str, message: str = "", *, retry_after: float | None = None) -> None:
        self.code, self.status = code, CODES[code][0]
        self.message = message or CODES[code][1]
        self.retry_after = retry_after
        super().__init__(f"{code}: {self.message}")

    def response(self, request_id: str) -> JSONResponse:
        """The answer, with Retry-After where waiting helps."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 and self.code != "signed_out" else {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        return JSONResponse(self.body(request_id), self.status, headers)

    def body(self, request_id: str) -> dict[str, Any]:
        """The JSON of the answer."""
        return {"error": {"code": self.code, "message": self.message[:1_000], "request_id": request_id}}


def image_problem(field: str, reason: str) -> Problem:
    """An image that is not accepted. reason: a key of `REASONS`."""
    return Problem("invalid_image", f"{field}: {reason}; {REASONS[reason]}")


def of_status(status: int) -> Problem:
    """The problem of a status, for errors that frameworks raise by status alone."""
    if status == 400:  # how FastAPI and Starlette call a body that they cannot parse
        return Problem("invalid_input", "the body is no form that can be read; send multipart/form-data")
    for code, (code_status, _) in CODES.items():
        if code_status == status:
            return Problem(code)
    return Problem("invalid_input" if 400 <= status < 500 else "internal", HTTPStatus(status).phrase)


def invalid_input(errors: Sequence[Any]) -> Problem:
    """The problem of pydantic's errors: which field, and what is wrong with it as far as that says nothing of the value."""
    parts = []
    for error in errors[:5]:
        place = [str(part) for part in error["loc"][1:] if isinstance(part, int) or _OURS.fullmatch(part)]
        wrong = "is missing" if error["type"] == "missing" else "is wrong"
        if error["type"] in _SAFE:
            wrong = str(error["msg"])[:100]
        parts.append(f"{'.'.join(place) or 'request'}: {wrong}")
    return Problem("invalid_input", "; ".join(parts))


def refusal(error: UserError) -> Problem:
    """The problem of a `UserError`, which names a value: of its message only the field goes out."""
    field = str(error).partition(":")[0]
    named = field if _OURS.fullmatch(field) else "request"
    return Problem("invalid_input", f"{named}: it was refused; docs/api.md says what it must be")


_OURS = re.compile(r"[a-z_]{1,30}(\[\d{1,3}\])?")  # our field names
_SAFE = ("int_parsing", "greater_than_equal", "less_than_equal", "string_too_long", "too_short", "too_long")
