"""The documentation that the service shows of itself: `/openapi.json`, and `/docs`, a page that renders it.

Owns when the description is made anew: when the catalog is another one. The page and all that it loads come from
`static/`. Must not know what the description says.
"""

from __future__ import annotations

import asyncio
import gzip
from importlib import metadata

import anyio.to_thread
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import Response

from service.lifespan import STATE, Service
from service.pages.files import CSS, JAVASCRIPT, Page, compressed_response
from service.pages.openapi import document
from service.problems import JSON, problem_of
from sql import Catalog, CatalogMissing

_FILES = {"docs.js": JAVASCRIPT, "swagger-ui-bundle.js": JAVASCRIPT, "swagger-ui.css": CSS}


class Docs:
    """The endpoints. `prefix` is the path before the tables."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._page = Page("docs.html", _FILES)
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
        return self._page.response()

    async def file(self, http: HttpRequest) -> Response:
        """A file that the page loads."""
        return await self._page.file(http, http.path_params["name"])

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
        return await compressed_response(http, self._description, {"content-type": JSON, "cache-control": "no-cache"})


def _described(catalog: Catalog, prefix: str) -> bytes:
    described = document(catalog, prefix=prefix, version=metadata.version("headrace"))
    return gzip.compress(described, compresslevel=6, mtime=0)
