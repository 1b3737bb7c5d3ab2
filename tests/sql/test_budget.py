"""The connection budget: the arithmetic, and the limits that it is held against."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from sql import BudgetExceeded, Demand, Room
from sql.budget import check, room_of, shortages
from tests.harness import Connection

ROOM = Room(
    max_connections=100,
    superuser_reserved=3,
    reserved=0,
    connections=99,
    ours=0,
    role_max=None,
    role=99,
    database_max=None,
    database=99,
)


@pytest.mark.parametrize(
    ("demand", "connections"),
    [
        (Demand(slots=2), 4),
        (Demand(slots=2, beside=1), 3),
        (Demand(slots=8, workers=4), 40),
        (Demand(slots=8, workers=4, pods=3), 120),
    ],
)
def test_what_is_needed(demand: Demand, connections: int) -> None:
    """Slots and what each worker has beside them, for each worker of each pod."""
    assert demand.connections == connections


@pytest.mark.parametrize(
    ("reserve", "facts", "short"),
    [
        (57, {}, 0),
        (58, {}, 1),
        (0, {"max_connections": 43}, 0),
        (0, {"max_connections": 42}, 1),
        (0, {"max_connections": 48, "reserved": 5}, 0),
        (0, {"max_connections": 48, "reserved": 6}, 1),
        (0, {"role_max": 40}, 0),
        (0, {"role_max": 39}, 1),
        (50, {"role_max": 40}, 0),  # the reserve is of the server
        (0, {"database_max": 40}, 0),
        (0, {"database_max": 39}, 1),
        (0, {"database_max": 39, "role_max": 1, "max_connections": 5}, 3),
    ],
)
def test_whether_there_may_be_so_many(reserve: int, facts: dict[str, Any], short: int) -> None:
    """What is in use does not count: it may be other workers of the same service."""
    demand = Demand(slots=8, workers=4, reserve=reserve)
    room = structs.replace(ROOM, **facts)
    assert len(shortages(demand, room)) == short
    if short:
        with pytest.raises(BudgetExceeded):
            check(demand, room)
    else:
        check(demand, room)


def test_the_arithmetic_is_told() -> None:
    """Whoever has to mend it sees each number, and where it comes from."""
    with pytest.raises(BudgetExceeded) as refused:
        check(Demand(slots=8, workers=4, pods=3, reserve=10), structs.replace(ROOM, reserved=2, role_max=50))
    assert str(refused.value) == (
        "more connections than PostgreSQL allows: 3 pods * 4 workers * (8 flush slots + 2) = 120 connections,"
        " but max_connections 100 - superuser_reserved_connections 3 - reserved_connections 2"
        " - HEADRACE_CONNECTIONS_RESERVE 10 = 85;"
        " 3 pods * 4 workers * (8 flush slots + 2) = 120 connections,"
        " but the role may have 50 (alter role … connection limit):"
        " raise the limit, lower HEADRACE_FLUSH_SLOTS, HEADRACE_WORKERS or HEADRACE_PODS, or put a pooler in between"
        " (PgBouncer in transaction mode)"
    )


async def test_the_limits_of_a_server(db: Connection) -> None:
    """They are those of its settings; a superuser's role has none of its own."""
    room = await room_of(db)
    assert (room.max_connections, room.superuser_reserved, room.reserved) == (200, 3, 0)
    assert (room.connections_max, room.role_max, room.database_max) == (197, None, None)
