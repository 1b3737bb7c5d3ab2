"""Rows in over HTTP: what a producer sees, and what is in the table afterwards."""

from __future__ import annotations

from tests.harness import Connection, Running


async def test_201_means_that_the_row_is_there(db: Connection, headrace: Running) -> None:
    """The promise that everything else serves."""
    await db.execute("create table t (id bigint generated always as identity primary key, name text not null)")
    response = await headrace.post("t", {"name": "washer"})
    assert response.status_code == 201
    assert response.content == b""
    assert response.headers["content-length"] == "0"
    assert await db.fetchval("select name from t") == "washer"
