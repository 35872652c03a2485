"""The page at `/`, and the files that it is made of."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.responses import Response

from ..checkpoints.loading import ASSETS
from .refusals import Refused

FOLDER = ASSETS / "pages"
TYPES = {"clip.css": "text/css", "clip.js": "text/javascript", "serve.css": "text/css", "serve.js": "text/javascript"}
PATHS = frozenset(("/", *(f"/page/{name}" for name in TYPES)))
POLICY = {  # scripts and styles are files of this server, and nothing is loaded from elsewhere
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}


def add_page(app: FastAPI) -> None:
    """Add the page to an application."""
    files = {name: (FOLDER / name).read_bytes() for name in TYPES}
    text = (FOLDER / "serve.html").read_text("utf-8")
    whole = text.replace("{{clip}}", (FOLDER / "clip.html").read_text("utf-8"))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(whole, media_type="text/html", headers=POLICY)

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in files:
            raise Refused(404, "There is no such endpoint.")
        return Response(files[name], media_type=TYPES[name])
