"""Which table a path names, and what is answered where it names none."""

from __future__ import annotations

import urllib.parse
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from service.app import create_app
from service.http.paths import TablePaths
from service.lifespan import STATE
from tests.harness import Connection, Running, Start, rows_of
from tests.service.in_process import in_process

TABLES: dict[str, dict[bytes, str | None]] = {
    "/rest/v1": {
        b"/rest/v1/t": "t",
        b"/rest/v1/T": "T",
        b"/rest/v1/a%2Fb": "a/b",
        b"/rest/v1/a%2fb%2F": "a/b/",
        b"/rest/v1/%2f": "/",
        b"/rest/v1/two%20words": "two words",
        b"/rest/v1/two+words": "two+words",
        b"/rest/v1/%C3%BC": "ü",
        b"/rest/v1/%25": "%",
        b"/rest/v1/%2574": "%74",
        b"/rest/v1/..": "..",
        b"/rest/v1/t%0A": "t\n",
        b"/%72est/v1/t": "t",
        b"/rest/v1/": None,
        b"/rest/v1": None,
        b"/rest/v1/t/": None,
        b"/rest/v1//t": None,
        b"/rest/v1/t/1": None,
        b"//rest/v1/t": None,
        b"/rest/v1/../v1/t": None,
        b"/REST/v1/t": None,
        b"/rest%2Fv1/t": None,
        b"%2Frest/v1/t": None,
        b"/rest/v1%2Ft": None,
        b"/rest/v1/t%2": None,
        b"/rest/v1/t%": None,
        b"/rest/v1/%zz": None,
        b"/rest/v1/%+1": None,
        b"/rest/v1/%ff%fe": None,
        b"/rest/v1/%C3": None,
        b"/rest/v1/%ED%A0%80": None,
        b"*": None,
        b"": None,
    },
    "": {
        b"/t": "t",
        b"/livez": "livez",
        b"/a%2Fb": "a/b",
        b"/": None,
        b"": None,
        b"t": None,
        b"/t/": None,
        b"//t": None,
    },
}


@pytest.mark.parametrize("prefix", TABLES)
def test_a_path_is_divided_before_it_is_decoded(prefix: str) -> None:
    """Otherwise a slash in a name divides it, and what a proxy has let pass as one segment becomes two."""
    paths = TablePaths(prefix)
    assert {path: paths.table(path) for path in TABLES[prefix]} == TABLES[prefix]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.sampled_from(["", "/rest/v1"]))
def test_every_name_has_a_path(name: str, prefix: str) -> None:
    """A table that cannot be named cannot be written."""
    path = f"{prefix}/{urllib.parse.quote(name, safe='')}"
    assert TablePaths(prefix).table(path.encode()) == name


async def test_tables_of_odd_names_are_written(db: Connection, headrace: Running) -> None:
    """Neither lane knows another path for them than the other one."""
    for name in ("a/b", "a%b", "a%2Fb", "/", "..", "ü x", "t\n", "+"):
        await db.execute(f'create table "{name}" (n int)')
        response = await headrace.post(urllib.parse.quote(name, safe="").replace(".", "%2E"), {"n": 1})
        assert response.status_code == 201, name
        assert await rows_of(db, f'select n from "{name}"') == [(1,)]
    await db.execute("create table a (b int)")
    response = await headrace.post("a/b", {"n": 1})
    assert (response.status_code, response.json()["code"]) == (404, "PGRST125")


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


async def test_a_path_that_is_none_is_so_for_every_method(headrace: Running) -> None:
    """404 with the code that clients know, not a redirection and not the framework's page."""
    for path in (
        "/",
        "/rest/v1",
        "/rest/v1/",
        "/rest/v1/t/",
        "/rest/v1/t/1",
        "/rest%2Fv1/t",
        "/rest/v1/%ff",
        "/documents/x",
    ):
        for method in METHODS:
            response = await headrace.client.request(method, path)
            assert response.status_code == 404, (method, path)
            assert response.headers["proxy-status"] == "PostgREST; error=PGRST125"
            if method != "HEAD":
                assert response.json() == {
                    "code": "PGRST125",
                    "message": "Invalid path specified in request URL",
                    "details": None,
                    "hint": None,
                }


async def test_a_table_takes_only_posts(headrace: Running) -> None:
    """Whether there is such a table or not: reading is for others, and they say so with another status."""
    for method in METHODS:
        if method == "POST":
            continue
        response = await headrace.client.request(method, "/rest/v1/a%2Fb")
        assert (response.status_code, response.headers["allow"]) == (405, "POST"), method
        assert response.headers["proxy-status"] == "PostgREST; error=PGRST117"
        if method != "HEAD":
            assert response.json() == {
                "code": "PGRST117",
                "message": f"Unsupported HTTP method: {method}",
                "details": None,
                "hint": None,
            }


async def test_what_else_we_serve_has_its_methods(headrace: Running) -> None:
    """The framework's own pages answer wrong methods in the same form."""
    for path, allow in (
        ("/livez", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
    ):
        for method in ("POST", "DELETE", "OPTIONS"):
            response = await headrace.client.request(method, path)
            assert (response.status_code, response.headers["allow"]) == (405, allow), (method, path)
            assert response.json()["code"] == "PGRST117"


async def test_without_a_prefix_tables_stand_beside_our_own_paths(db: Connection, dsn: str, start: Start) -> None:
    """What is read is ours, what is posted is a table's: no name of a table is taken."""
    await db.execute("create table t (n int); create table livez (n int)")
    async with start(dsn=dsn, prefix="") as headrace:
        for table in ("t", "livez"):
            assert (await headrace.client.post(f"/{table}", json={"n": 1})).status_code == 201
            assert await rows_of(db, f"select n from {table}") == [(1,)]
        assert (await headrace.client.get("/livez")).json() == {"status": "alive"}
        for method, path, status, code, allow in (
            ("PUT", "/livez", 405, "PGRST117", "GET, HEAD, POST"),
            ("PUT", "/docs", 405, "PGRST117", "GET, HEAD, POST"),
            ("GET", "/t", 405, "PGRST117", "POST"),
            ("POST", "/metrics", 404, "PGRST205", None),
            ("POST", "/rest/v1/t", 404, "PGRST125", None),
            ("POST", "/", 404, "PGRST125", None),
        ):
            response = await headrace.client.request(method, path, json={})
            found = (response.status_code, response.json()["code"], response.headers.get("allow"))
            assert found == (status, code, allow), (method, path)


# ---------------------------------------------------------------- other servers


@pytest.mark.parametrize(
    ("root_path", "raw"),
    [
        ("", True),
        ("", False),
        ("/behind/a proxy", True),
        ("/behind/a proxy", False),
        ("/behind/a%20proxy", True),
        ("/rest", True),
    ],
)
async def test_a_server_may_tell_the_path_in_its_own_way(root_path: str, raw: bool) -> None:  # noqa: FBT001
    """With the path under which it has us, decoded or not; or without the path as it came."""
    async with in_process(fast_lane=False) as server:
        app = create_app(server.service.settings)

        async def as_the_server_does(scope: Scope, receive: Receive, send: Send) -> None:
            scope["state"] = {STATE: server.service}
            if not raw:
                del scope["raw_path"]
            await app(scope, receive, send)

        transport = httpx2.ASGITransport(as_the_server_does, root_path=urllib.parse.unquote(root_path))
        async with httpx2.AsyncClient(transport=transport, base_url=f"http://h{root_path}") as client:
            paths: dict[str, Any] = {
                "/rest/v1/t": (201, None),
                "/rest/v1/%74": (201, None),
                "/rest/v1/none": (404, "PGRST205"),
                "/rest/v1/t/": (404, "PGRST125"),
                "/nowhere": (404, "PGRST125"),
                "/rest/v1/a%2Fb": (404, "PGRST205" if raw else "PGRST125"),
                "/rest%2Fv1/t": (404, "PGRST125") if raw else (201, None),
            }
            for path, expected in paths.items():
                response = await client.post(path, json={"a": "x"})
                code = response.json()["code"] if response.content else None
                assert (response.status_code, code) == expected, path
