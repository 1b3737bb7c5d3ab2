"""Producers: those who write with a credential, as this process knows them.

Owns their accounts. Must not know how anybody proves who he is, nor what he may write to.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from batching import Account, Limits, ShareFull
from service.auth.principal import Principal


class Producer(Account):
    """The account of a principal. `held_bytes` is what its bodies hold that arrive or are read."""

    __slots__ = ("held_bytes", "name")

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        super().__init__(0, 0, clock)
        self.name = name
        self.held_bytes = 0

    def hold(self, size: int) -> None:
        """Count so many bytes more of bodies, or fewer. Raises `ShareFull`."""
        if size > 0 and self.held_bytes + size > self.bytes_max:
            raise ShareFull(retry_seconds=1)
        self.held_bytes += size

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is under way."""
        return not (self.pending_rows or self.held_bytes)


class Producers:
    """All that have written lately, by name: whoever has several tokens in his name has one account."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic, *, known_max: int = 10_000) -> None:
        # Tokens may name ever new ones; each takes half a kilobyte.
        self._known_max = known_max
        self._limits = limits
        self._clock = clock
        self._known: OrderedDict[str, Producer] = OrderedDict()

    def of(self, principal: Principal) -> Producer:
        """The producer with this principal's name; its limits are those of the principal from now on."""
        known = self._known
        producer = known.get(principal.name)
        if producer is None:
            if len(known) >= self._known_max:
                self._forget()
            producer = known[principal.name] = Producer(principal.name, self._clock)
        else:
            known.move_to_end(principal.name)
        producer.rows_max = max(1, int(self._limits.pending_rows_max * principal.queue_share))
        producer.bytes_max = max(1, int(self._limits.pending_bytes_max * principal.queue_share))
        producer.rows_per_second = principal.rows_per_second or math.inf
        return producer

    def _forget(self) -> None:
        """The one that has written nothing for longest; one of which something is under way only if all are."""
        idle = next((name for name, producer in self._known.items() if producer.is_idle), None)
        self._known.pop(next(iter(self._known)) if idle is None else idle)
