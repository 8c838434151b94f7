"""Signing in and out, and what the page needs to know of whoever is there."""

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Body, FastAPI, Request, Response
from pydantic import BaseModel

from countryreward import markets
from countryreward.api.schemas import Market
from countryreward.serving.http.problems import Problem
from countryreward.serving.inference.async_scorer import AsyncScorer
from countryreward.serving.service_config import ServiceConfig
from countryreward.serving.studio.guests import GuestStore
from countryreward.serving.studio.studio_config import StudioConfig
from countryreward.serving.studio.studio_gate import COOKIE, session_of

_USED = "this link was used already, is older than three days, or is not complete; ask for a new one"


class Me(BaseModel):
    """What the page is told."""

    name: str
    team: str
    markets: list[Market]
    """Those that were learned; others can be asked, too."""
    others: list[Market]
    max_pictures: int
    max_picture_mb: int
    max_table_mb: int
    kept_hours: float
    simulated: bool
    """Everything known comes from simulated clicks."""
    variants: int
    """Pictures that are made at a time; 0: none can be made."""


def add_session_routes(
    app: FastAPI,
    asked: AsyncScorer,
    config: ServiceConfig,
    studio: StudioConfig,
    guests: GuestStore,
    *,
    simulated: bool,
    variants: bool = False,
) -> None:
    """The routes. Only /api/session can be called without a session."""

    @app.post("/api/session", tags=["session"], status_code=204, max_body_size=2_048)
    def sign_in(request: Request, code: Annotated[str, Body(embed=True, max_length=200)]) -> Response:
        """Use an invitation up. The session lies in a cookie that no script can read."""
        signed_in = guests.sign_in(code)
        if signed_in is None:
            raise Problem("signed_out", _USED)
        token, guest = signed_in
        answer = Response(status_code=204)
        _cookie(answer, request, token, guest.days * 86_400)
        return answer

    @app.get("/api/session", tags=["session"])
    def signed_in(request: Request) -> dict[str, bool]:
        """Whether somebody is: an answer that no browser writes into its console as an error."""
        return {"signed_in": guests.check(session_of(request.headers)) is not None}

    @app.delete("/api/session", tags=["session"], status_code=204)
    def sign_out(request: Request) -> Response:
        """End this session for good."""
        guests.revoke(request.state.caller.key_id)
        answer = Response(status_code=204)
        _cookie(answer, request, "", 0)
        return answer

    @app.get("/api/me", tags=["session"])
    def me(request: Request) -> Me:
        """Who is there, and what can be asked. 503 while nothing has told yet what was learned."""
        if not asked.markets:
            raise Problem("starting", retry_after=2)
        known = sorted((_market(code) for code in asked.markets), key=lambda one: one.name)
        trained = set(asked.markets)
        return Me(
            name=request.state.guest.name,
            team=request.state.caller.tenant,
            markets=known,
            others=sorted((_market(code) for code in markets.codes() if code not in trained), key=lambda one: one.name),
            max_pictures=studio.max_pictures,
            max_picture_mb=config.max_image_bytes // 2**20,
            max_table_mb=config.max_table_bytes // 2**20,
            kept_hours=config.retention_hours,
            simulated=simulated,
            variants=studio.variants if variants else 0,
        )


def _market(code: str) -> Market:
    return Market(code=code, name=markets.name(code))


def _cookie(answer: Response, request: Request, token: str, seconds: int) -> None:
    """Sent only to this app, only by its own page, never shown to a script; over https only where the page came by https."""
    origin = urlsplit(request.headers.get("origin", ""))
    answer.set_cookie(
        COOKIE,
        token,
        max_age=seconds,
        path=request.scope.get("root_path", "") or "/",
        secure=origin.scheme == "https",
        httponly=True,
        samesite="strict",
    )
