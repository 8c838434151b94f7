"""The page itself and its files, as `make studio` built them from web/."""

import re
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse

from countryreward.serving.http.problems import Problem

STATIC = Path(__file__).parent / "static"
"""The built page."""
NOT_BUILT = (
    "The studio's page has not been built. Run `make studio` in the repository, then start the service again. "
    "The API and its batch jobs work without it.\n"
)
_TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "woff2": "font/woff2"}
_NAME = re.compile(r"[a-z]+-[A-Z0-9]{8}\.([a-z0-9]+)")


def add_page(app: FastAPI, static: Path) -> None:
    """`/` and `/assets/...`. Files are read once, here."""
    page = static / "index.html"
    html = page.read_bytes() if page.is_file() else None
    assets = {path.name: path.read_bytes() for path in sorted(static.glob("*-*.*")) if _NAME.fullmatch(path.name)}

    @app.get("", include_in_schema=False)
    def without_slash(request: Request) -> Response:
        """The page's links are relative to its folder."""
        return Response(status_code=308, headers={"Location": f"{request.scope.get('root_path', '')}/"})

    @app.get("/", tags=["page"], response_class=HTMLResponse)
    def show() -> Response:
        """The page."""
        if html is None:
            return PlainTextResponse(NOT_BUILT, status_code=200)
        return HTMLResponse(html)

    @app.get("/assets/{name}", tags=["page"], response_class=Response)
    def asset(name: str) -> Response:
        """A file of the page; its name changes with its content."""
        if name not in assets:
            raise Problem("not_found")
        kind = _TYPES[name.rpartition(".")[2]]
        lasting = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(assets[name], media_type=f"{kind}; charset=utf-8", headers=lasting)
