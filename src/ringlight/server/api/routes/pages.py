"""Routes for people: the page at / and the documentation at /docs. Both need nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from ringlight.server.api.reference import POLICY, render
from ringlight.server.http.content import FileAnswer, LocalFile

FOLDER = Path(str(files("ringlight.server"))) / "page"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
@router.head("/")
async def index() -> Response:
    """Serve the page."""
    return _file("index.html")


@router.get("/page/{name}")
@router.head("/page/{name}")
async def part_of_page(name: str) -> Response:
    """Serve a script, a style or a picture of the page."""
    return _file(name)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Serve the description of the API for people."""
    return HTMLResponse(render(request.app.openapi()), headers={"content-security-policy": POLICY})


def _file(name: str) -> Response:
    """Serve a file of the page's folder itself, of a kind that a page has."""
    path = FOLDER / name
    if path.parent != FOLDER or path.suffix not in MEDIA_TYPES or not path.is_file():
        raise HTTPException(404)
    return FileAnswer(LocalFile(path), MEDIA_TYPES[path.suffix], name)
