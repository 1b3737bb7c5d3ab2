"""bench/kinds.py: every kind of table can be made, filled and measured."""

from __future__ import annotations

from bench.kinds import BATCH_ROWS, KINDS, lines, measure


async def test_the_more_a_table_has_the_more_it_writes_to_the_log(dsn: str) -> None:
    """The numbers of docs/scaling.md come from here."""
    batches = [lines(BATCH_ROWS)]
    wal = [(await measure(dsn, kind, batches))[1] for kind in KINDS]
    plain, key, index, gin, by_day, by_hash = wal
    assert plain < key < index < gin
    assert min(by_day, by_hash) > plain
