"""What kind of failure a call came back with: one that passes, a death, or a fault of what was called."""

from enum import Enum

from countryreward.errors import UserError
from countryreward.serving.client import Unavailable


class Failure(Enum):
    """Of one call."""

    PASSING = "passing"
    """Nobody answered: a time-out, a cut connection, no room. The call is made again until patience ends."""
    DEATH = "death"
    """Who was asked died. Made again; what kills again and again is set aside."""
    FAULT = "fault"
    """Who was asked raised something that it should not. Made again a few times."""


def failure_of(error: Exception) -> Failure:
    """Raises `error` itself when it is a `UserError`: that is for who started the loop, such as a key that is not allowed."""
    from ray.exceptions import RayActorError, RayError, RayTaskError
    from ray.serve.exceptions import RayServeException

    if isinstance(error, UserError):
        raise error
    if isinstance(error, RayActorError):
        return Failure.DEATH
    passing = (TimeoutError, ConnectionError, Unavailable, RayServeException)
    if isinstance(error, RayTaskError):  # it is also of the type of what was raised there, where that is possible
        return Failure.PASSING if isinstance(error, passing) else Failure.FAULT
    return Failure.PASSING if isinstance(error, (*passing, RayError)) else Failure.FAULT
