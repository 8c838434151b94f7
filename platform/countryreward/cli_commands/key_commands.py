"""`countryreward keys create | invite | list | revoke`: API keys of the HTTP service, and guests of the studio."""

import argparse
import sys
from pathlib import Path
from typing import Any

from countryreward.serving.service_config import SharedServiceConfig


def add_keys(commands: Any) -> None:
    """Declare the commands and their options."""
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
    invite = actions.add_parser("invite", help="make a link that lets somebody into the studio; it works once")
    invite.add_argument("--tenant", required=True, help="whose pictures they see: 1 to 40 of a-z, 0-9 and -")
    invite.add_argument("--name", required=True, help="who they are, as the studio shows it")
    invite.add_argument("--days", type=int, default=30, help="how long they stay signed in (default 30)")
    invite.add_argument(
        "--rate", default="6000/minute", help="verdicts of the whole tenant there (default 6000/minute)"
    )
    invite.add_argument("--url", default="http://127.0.0.1:8000", help="where the service is (default %(default)s)")
    list_all = actions.add_parser("list", help="all keys and guests, without their secrets")
    revoke = actions.add_parser("revoke", help="end a key, an invitation or its session for good")
    revoke.add_argument("key_id", help="the 8 digits after cr_, or of a guest, as `keys list` shows them")
    for action in (create, invite, list_all, revoke):
        action.add_argument(
            "--state",
            type=Path,
            default=Path(SharedServiceConfig.state),
            help="the service's state folder (%(default)s)",
        )


def run_keys(options: argparse.Namespace) -> None:
    """Make, list or revoke what the options say. Raises `UserError`."""
    from countryreward.serving.http.keys import FILE, KeyStore
    from countryreward.serving.studio.guests import FILE as GUESTS
    from countryreward.serving.studio.guests import OPEN_HOURS, GuestStore, link_of

    config = SharedServiceConfig()
    keys = KeyStore(options.state / FILE, config.poll_s)
    guests = GuestStore(options.state / GUESTS, config.poll_s)
    if options.action == "create":
        print(keys.create(options.tenant, options.scope or ["score"], options.rate, options.days))
        print(  # beside the key, so that KEY=$(countryreward keys create ...) holds the key alone
            "Copy the key now: it is kept nowhere and cannot be shown again.\n"
            "Send it with every call in the header `Authorization: Bearer KEY`.\n"
            f"Running replicas take it within {config.poll_s:g} s (poll_s); `countryreward keys revoke ID` ends it.",
            file=sys.stderr,
        )
    elif options.action == "invite":
        print(link_of(options.url, guests.invite(options.tenant, options.name, options.days, options.rate)))
        print(
            f"Send {options.name} this link now: it is kept nowhere and cannot be shown again.\n"
            f"It works once, within {OPEN_HOURS} hours, and lets them in for {options.days} days.",
            file=sys.stderr,
        )
    elif options.action == "revoke":
        (guests if guests.knows(options.key_id) else keys).revoke(options.key_id)
        print(f"{options.key_id} is revoked; running replicas refuse it within {config.poll_s:g} s (poll_s)")
    else:
        all_keys, all_guests = keys.list(), guests.list()
        for key in all_keys:
            until = key.revoked or key.expires or "never expires"
            print(
                f"{key.id}  {key.state():<7}  {key.tenant:<20}  {','.join(key.scopes):<19}  {key.rate:<14}  "
                f"created {key.created}  {until}"
            )
        for guest in all_guests:
            until = guest.revoked or guest.expires or guest.open_until
            print(
                f"{guest.id}  {guest.state():<9}  {guest.tenant:<20}  studio, {guest.name}  {guest.rate:<14}  "
                f"created {guest.created}  {until}"
            )
        if not all_keys and not all_guests:
            print(f"no keys in {options.state}; make one: countryreward keys create --tenant NAME")
