"""Serves the stylesheet, scripts and icon; an address contains the hash of the content, so browsers keep them."""

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, HTTPException, Response

from ..api.sessions import CONSOLE_PATH
from .security import ASSET_HEADERS

FOLDER = Path(__file__).parent / "static"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

router = APIRouter()


class Asset(NamedTuple):
    """A file with its address."""

    path: str
    content: bytes
    media_type: str


@cache
def assets() -> dict[str, Asset]:
    """Return all files by their name, read once."""
    return {file.name: _asset(file) for file in FOLDER.iterdir() if file.suffix in MEDIA_TYPES}


def static(name: str) -> str:
    """Return the address of a file."""
    return assets()[name].path


def _asset(file: Path) -> Asset:
    content = file.read_bytes()
    digest = sha256(content).hexdigest()[:16]
    path = f"{CONSOLE_PATH}/static/{digest}/{file.name}"
    return Asset(path, content, MEDIA_TYPES[file.suffix])


@router.get("/static/{digest}/{name}")
async def static_file(digest: str, name: str) -> Response:
    """Return a file of the console; it is public, since the login page needs it."""
    asset = assets().get(name)
    if asset is None or asset.path.split("/")[-2] != digest:
        raise HTTPException(404, "This version of the service has no such file.")
    return Response(asset.content, media_type=asset.media_type, headers=ASSET_HEADERS)
