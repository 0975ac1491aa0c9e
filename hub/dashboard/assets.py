"""The page's files: style and scripts, all from here. Each URL carries a hash, so browsers may keep it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from aiohttp import web

from hub.dashboard.route import Page

_DIRECTORY: Final = Path(__file__).parent / "static"
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOR_EVER: Final = "public, max-age=31536000, immutable"


class Assets:
    """All files of `static/`, read once."""

    def __init__(self) -> None:
        files = [path for path in _DIRECTORY.iterdir() if path.suffix in _TYPES]
        self._bodies = {path.name: path.read_bytes() for path in files}
        self._versions = {name: hashlib.sha256(body).hexdigest()[:12] for name, body in self._bodies.items()}

    def url(self, name: str) -> str:
        """Return where a file is; raises `KeyError` for one that is not there."""
        return f"/static/{self._versions[name]}/{name}"

    def pages(self) -> list[Page]:
        """Return the one route."""
        return [Page("/static/{version}/{name}", self.show, is_public=True)]

    async def show(self, request: web.Request) -> web.Response:
        """Answer with a file."""
        name = request.match_info["name"]
        body = self._bodies.get(name)
        if body is None:
            raise web.HTTPNotFound
        kept = _FOR_EVER if request.match_info["version"] == self._versions[name] else "no-cache"
        kind = _TYPES[Path(name).suffix]
        return web.Response(body=body, content_type=kind, charset="utf-8", headers={"Cache-Control": kept})
