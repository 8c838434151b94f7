"""The one error type a user is meant to read."""


class UserError(ValueError):
    """Wrong input from outside. The message names the field, the value and the way out; jobs exit with code 2 on it."""
