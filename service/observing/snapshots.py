"""Snapshots: what a worker has counted, with what there is at the moment; and the same of all workers.

Owns where each number of the state is read. Must not know what is made of it.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from batching import Batcher
from service.http.connections import Connections
from service.observing.counting import Counts
from service.observing.numbers import Numbers, State, together
from service.observing.workers import Workers
from service.postings import Postings
from service.settings import Settings
from sql import CatalogWatch


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Takes them. The parts are those of one worker; `workers` knows the others."""

    settings: Settings
    counts: Counts
    batcher: Batcher
    postings: Postings
    connections: Connections
    watch: CatalogWatch
    workers: Workers

    def all(self) -> Numbers:
        """The numbers of all workers; those of others are a fraction of a second old."""
        own = self.own()
        if self.workers.are_several:
            self.workers.publish(own)  # nobody shall tell less of us later than we do now
        return together([own, *self.workers.others()])

    def own(self) -> Numbers:
        """The numbers of this worker. Lists and dicts in them go on changing: copy what is to be compared later."""
        counted, slots = self.counts.numbers, self.batcher.slots()
        return msgspec.structs.replace(
            counted,
            state=self._state(),
            received_requests=self.postings.received_requests,
            received_rows=self.postings.received_rows,
            tables={name: table for name, table in counted.tables.items() if table.is_used},
            retries=self.batcher.retries,
            slot_connects={"ok": slots.opened, "failed": slots.failed},
            cpu_seconds=time.process_time(),
        )

    def _state(self) -> State:
        settings = self.settings
        queue, slots = self.batcher.statistics(), self.batcher.slots()
        pending_requests, pending_rows = self.postings.pending()
        return State(
            draining=int(self.batcher.closed),
            away=int(self.batcher.away() is not None or self.watch.problem is not None),
            queued_requests=queue.waiting_submissions,
            queued_rows=queue.waiting_rows,
            queued_bytes=queue.waiting_bytes,
            oldest_seconds=max(0.0, self.batcher.clock() - queue.oldest_since),
            pending_requests=pending_requests,
            pending_rows=pending_rows,
            pending_bytes=queue.pending_bytes,
            pending_rows_max=settings.pending_rows_max,
            pending_bytes_max=settings.pending_bytes_max,
            body_bytes=self.postings.held_bytes,
            slots_busy=slots.busy,
            slots_idle=slots.idle,
            slots_away=slots.away,
            connections=len(self.connections),
            database_connections=slots.busy + slots.idle + self.watch.is_connected,
            resident_bytes=_resident_bytes(),
            lag_seconds=self.counts.lag_seconds,
        )


_STATM = Path("/proc/self/statm")


def _resident_bytes() -> int:
    """The memory of this process; where the system does not tell, the most that it had."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
