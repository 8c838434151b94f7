"""`countryreward keys create | list | revoke`: API keys of the HTTP service."""

import argparse
import sys
from pathlib import Path
from typing import Any

from countryreward.serving.config import ServiceConfig


def add_keys(commands: Any) -> None:
    """The commands' options."""
    actions = commands.add_parser("keys", help="API keys of the HTTP service").add_subparsers(
        dest="action", required=True
    )
    create = actions.add_parser("create", help="make a key; it is shown once and kept nowhere")
    create.add_argument("--tenant", required=True, help="who will call: 1 to 40 of a-z, 0-9 and -")
    create.add_argument(
        "--scope", action="append", help="score (default), batch, generate or metrics; repeat for several"
    )
    create.add_argument("--rate", default="6000/minute", help="verdicts, such as 100/second (default 6000/minute)")
    create.add_argument("--days", type=int, default=365, help="until it expires (default 365); 0: never")
    listed = actions.add_parser("list", help="all keys, without their secrets")
    revoke = actions.add_parser("revoke", help="end a key for good")
    revoke.add_argument("key_id", help="the 8 digits after cr_, as `keys list` shows them")
    for action in (create, listed, revoke):
        action.add_argument(
            "--state", type=Path, default=Path(ServiceConfig.state), help="the service's state folder (%(default)s)"
        )


def run_keys(options: argparse.Namespace) -> None:
    """Do it. Raises `UserError`."""
    from countryreward.serving.keys import FILE, KeyStore

    config = ServiceConfig()
    keys = KeyStore(options.state / FILE, config.poll_s)
    if options.action == "create":
        print(keys.create(options.tenant, options.scope or ["score"], options.rate, options.days))
        print(  # beside the key, so that KEY=$(countryreward keys create ...) holds the key alone
            "Copy the key now: it is kept nowhere and cannot be shown again.\n"
            "Send it with every call in the header `Authorization: Bearer KEY`.\n"
            f"Running replicas take it within {config.poll_s:g} s (poll_s); `countryreward keys revoke ID` ends it.",
            file=sys.stderr,
        )
    elif options.action == "revoke":
        keys.revoke(options.key_id)
        print(f"{options.key_id} is revoked; running replicas refuse it within {config.poll_s:g} s (poll_s)")
    else:
        known = keys.list()
        for key in known:
            until = key.revoked or key.expires or "never expires"
            print(
                f"{key.id}  {key.state():<7}  {key.tenant:<20}  {','.join(key.scopes):<19}  {key.rate:<14}  "
                f"created {key.created}  {until}"
            )
        if not known:
            print(f"no keys in {options.state}; make one: countryreward keys create --tenant NAME")
