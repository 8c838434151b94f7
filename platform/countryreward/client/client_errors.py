"""What a caller of the service may have to handle. No message holds the key."""

from countryreward.errors import UserError


class _ErrorStatus(UserError):
    def __init__(
        self, message: str, *, code: str = "", status: int = 0, request_id: str = "", attempts: int = 1
    ) -> None:
        super().__init__(message)  # keyword-only with defaults: it can be pickled
        self.code, self.status, self.request_id, self.attempts = code, status, request_id, attempts


class Refused(_ErrorStatus):
    """The service does not accept what was sent; the message names the field and the way out. `code` is one of docs/api.md."""


class NotAllowed(_ErrorStatus):
    """The key is missing, unknown, revoked, expired or lacks a scope."""


class Unavailable(RuntimeError):
    """The call was given up after `attempts`. `status`: of the last answer, None where there was none."""

    def __init__(self, message: str, *, attempts: int = 0, status: int | None = None, request_id: str = "") -> None:
        super().__init__(message)
        self.attempts, self.status, self.request_id = attempts, status, request_id


class BadAnswer(RuntimeError):
    """The service answered, but not in its own form: another kind of server, or a fault of ours."""

    def __init__(self, message: str, *, request_id: str = "") -> None:
        super().__init__(f"{message}, request {request_id}" if request_id else message)
        self.request_id = request_id
