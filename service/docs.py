"""The documentation that the service shows of itself: `/openapi.json`, and `/docs`, a page that renders it.

Owns when the description is made anew: when the catalog is another one. The page and all that it loads come from
`static/`, so it works where there is no way to the internet; Content-Security-Policy holds it to that. Must not know
what the description says.
"""

from __future__ import annotations

import asyncio
import gzip
from importlib import metadata, resources

import anyio.to_thread
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from service.lifespan import STATE, Service
from service.openapi import document
from service.problems import JSON, problem_of
from sql import Catalog, CatalogMissing

_STATIC = resources.files("service") / "static"

# Swagger UI (its version is in CONTRIBUTING.md) is kept compressed, as nearly everybody wants it.
_FILES = {
    "docs.js": "text/javascript; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}

_PAGE_HEADERS = {
    # Swagger UI sets styles by attributes, and has pictures in its style sheet.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
_FILE_HEADERS = {"cache-control": "max-age=3600", "x-content-type-options": "nosniff"}


class Docs:
    """The endpoints. `prefix` is the path before the tables."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._page = (_STATIC / "docs.html").read_bytes()
        self._files = {name: _compressed(name) for name in _FILES}
        self._making = asyncio.Lock()
        self._catalog: Catalog | None = None
        self._description = b""

    def add_to(self, app: FastAPI) -> None:
        """Serve them with this app."""
        app.add_api_route("/openapi.json", self.description, methods=["GET", "HEAD"])
        app.add_api_route("/docs", self.page, methods=["GET", "HEAD"])
        app.add_api_route("/docs/{name}", self.file, methods=["GET", "HEAD"])

    async def page(self) -> Response:
        """The page."""
        return Response(self._page, media_type="text/html", headers=_PAGE_HEADERS)

    async def file(self, http: HttpRequest) -> Response:
        """A file that the page loads."""
        name = http.path_params["name"]
        if name not in _FILES:
            raise HTTPException(404)
        return await _response(http, self._files[name], {"content-type": _FILES[name], **_FILE_HEADERS})

    async def description(self, http: HttpRequest) -> Response:
        """The description of the newest catalog."""
        service: Service = http.scope["state"][STATE]
        async with self._making:  # whoever comes while it is made takes that one
            catalog = service.ingest.catalog
            if catalog is None:
                answer = problem_of(CatalogMissing()).answer
                return Response(answer.body, answer.status, dict(answer.headers))
            if catalog is not self._catalog:
                # 1,000 tables take 0.15 s, in which nothing else waits longer than 13 ms.
                self._description = await anyio.to_thread.run_sync(_described, catalog, self._prefix)
                self._catalog = catalog
        return await _response(http, self._description, {"content-type": JSON, "cache-control": "no-cache"})


def _compressed(name: str) -> bytes:
    file = _STATIC / name
    return gzip.compress(file.read_bytes(), mtime=0) if file.is_file() else (_STATIC / f"{name}.gz").read_bytes()


def _described(catalog: Catalog, prefix: str) -> bytes:
    described = document(catalog, prefix=prefix, version=metadata.version("headrace"))
    return gzip.compress(described, compresslevel=6, mtime=0)


async def _response(http: HttpRequest, compressed: bytes, headers: dict[str, str]) -> Response:
    """The content as the client takes it."""
    headers["vary"] = "Accept-Encoding"
    if _takes_gzip(http.headers.get("accept-encoding", "")):
        return Response(compressed, headers={**headers, "content-encoding": "gzip"})
    content = await anyio.to_thread.run_sync(gzip.decompress, compressed)  # 7 MB, if there are 1,000 tables
    return Response(content, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    """Whether `Accept-Encoding` has gzip (RFC 9110 section 12.5.3). Who takes anything, takes it as it is."""
    for coding in accepted.lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() == "gzip":
            return weight.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
