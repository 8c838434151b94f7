"""The one error type a user is meant to read."""


class UserError(ValueError):
    """Wrong input from outside. The message names the field, the value and the way out; jobs exit with code 2 on it."""


class Stopped(KeyboardInterrupt):
    """A job was asked to stop (Ctrl-C, SIGTERM) and has put its work in safety; jobs exit with 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
