"""Files of `static/`: pages and what they load, as they are sent to browsers.

Owns compression and the headers of files. The pages need nothing from elsewhere, so they work where there is no way to
the internet; Content-Security-Policy holds them to that. Must not know what is in a file.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources

import anyio.to_thread
from fastapi import Request as HttpRequest
from fastapi.responses import Response
from starlette.exceptions import HTTPException

_STATIC = resources.files("service") / "static"

JAVASCRIPT = "text/javascript; charset=utf-8"
CSS = "text/css; charset=utf-8"

_PAGE_HEADERS = {
    # Styles are set by attributes, and there are pictures in a style sheet (Swagger UI's).
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
_FILE_HEADERS = {
    # A file of the version before, beside a page of this one, would be a page that does not work.
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
}


class Page:
    """A page, and the files that it loads: their names and media types."""

    def __init__(self, name: str, files: Mapping[str, str]) -> None:
        self._page = (_STATIC / name).read_bytes()
        self._types = files
        self._files = {name: _compressed(name) for name in files}
        # Weak: the same whether it is sent compressed or not.
        self._tags = {name: f'W/"{hashlib.sha256(file).hexdigest()[:16]}"' for name, file in self._files.items()}

    def response(self) -> Response:
        """The page."""
        return Response(self._page, media_type="text/html", headers=_PAGE_HEADERS)

    async def file(self, http: HttpRequest, name: str) -> Response:
        """A file, if the browser does not have it already. Raises `HTTPException` if there is none of this name."""
        if name not in self._files:
            raise HTTPException(404)
        tag = self._tags[name]
        if tag in http.headers.get("if-none-match", ""):
            return Response(status_code=304, headers={"etag": tag, "vary": "Accept-Encoding", **_FILE_HEADERS})
        headers = {"content-type": self._types[name], "etag": tag, **_FILE_HEADERS}
        return await compressed_response(http, self._files[name], headers)


async def compressed_response(http: HttpRequest, compressed: bytes, headers: dict[str, str]) -> Response:
    """Content that is kept as gzip, as the client takes it."""
    headers["vary"] = "Accept-Encoding"
    if _takes_gzip(http.headers.get("accept-encoding", "")):
        return Response(compressed, headers={**headers, "content-encoding": "gzip"})
    content = await anyio.to_thread.run_sync(gzip.decompress, compressed)  # 7 MB, if there are 1,000 tables
    return Response(content, headers=headers)


@cache
def _compressed(name: str) -> bytes:
    """A file as gzip, which some of them are already, as nearly everybody wants it."""
    file = _STATIC / name
    return gzip.compress(file.read_bytes(), mtime=0) if file.is_file() else (_STATIC / f"{name}.gz").read_bytes()


def _takes_gzip(accepted: str) -> bool:
    """Whether `Accept-Encoding` has gzip (RFC 9110 section 12.5.3). Who takes anything, takes it as it is."""
    for coding in accepted.lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() == "gzip":
            return weight.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
