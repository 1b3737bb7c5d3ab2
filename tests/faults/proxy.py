"""A fault proxy between the service and PostgreSQL: cuts, delays and swallows by protocol message. Loopback, no TLS.

What it looks for in each connection is the message with which rows are committed, whichever way they are written. Owns
that, and what it does there when it is told to. Must not know the service.
https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum, auto

HOST = "127.0.0.1"
_CANCEL, _SSL, _GSS = 80877102, 80877103, 80877104

_ROWS = re.compile(r"\b(?:copy|insert into)\s+(?!\"?headrace\"?\.)", re.IGNORECASE)
"""A statement that stores rows of a client, and not a note of the service's own."""


class Fault(Enum):
    """What is done to one connection, and where."""

    CUT_MID_COPY = auto()  # half of the data of a COPY gets there
    CUT_BEFORE_COMMIT = auto()  # everything but the message that commits
    CUT_AT_COMMIT = auto()  # that too, but the server finds its client gone while it is still at it: either may happen
    CUT_AFTER_COMMIT = auto()  # the server has confirmed the commit, which nobody hears
    HOLE_BEFORE_COMMIT = auto()  # the message is swallowed, and nothing says so: the server waits with the transaction
    HOLE_AFTER_COMMIT = auto()  # the confirmation is swallowed, and nothing says so


AMBIGUOUS = (Fault.CUT_AT_COMMIT, Fault.CUT_AFTER_COMMIT, Fault.HOLE_AFTER_COMMIT)
"""The faults after which the service cannot know whether it has stored what it has."""


class Step(Enum):
    """What a message from the client does."""

    OTHER = auto()
    DATA = auto()  # a part of the rows
    COMMIT = auto()  # once the server has dealt with it, the rows are committed


class Follower:
    """Follows one connection's messages. No I/O."""

    def __init__(self) -> None:
        self._block = False
        self._rows = False
        self._copying = False
        self._after_copy = ""
        self._statements: dict[bytes, str] = {}
        self._bound = ""

    def sees(self, kind: bytes, body: bytes) -> Step:
        """What the client's message does."""
        match kind:
            case b"Q":
                return self._query(body[:-1].decode())
            case b"d" if self._rows:
                return Step.DATA
            case b"c":
                self._copying = False
                return self._run(self._after_copy)
            case b"f":
                self._copying = self._rows = False
            case b"P":
                name, _, rest = body.partition(b"\0")
                self._statements[name] = rest.partition(b"\0")[0].decode()
            case b"B":
                self._bound = self._statements.get(body.partition(b"\0")[2].partition(b"\0")[0], "")
            case b"E":
                self._note(self._bound)
            case b"S":
                return self._end()
        return Step.OTHER

    def ready(self, status: bytes) -> None:
        """The server is ready for the next query, and says whether a transaction is open."""
        self._block = status != b"I"
        if not self._block:
            self._rows = False

    def _query(self, text: str) -> Step:
        copy = re.search(r"\bcopy\b[^;]*\bfrom stdin\b[^;]*", text, re.IGNORECASE)
        if copy is None:
            return self._run(text)
        self._note(text[: copy.end()])
        self._copying = True
        self._after_copy = text[copy.end() :]
        return Step.OTHER

    def _run(self, text: str) -> Step:
        """The text is run, and with it the transaction ends, unless it is in a block that stays open."""
        self._note(text)
        return self._end()

    def _note(self, text: str) -> None:
        # Values with such words in them would be misread; those of the tests have none.
        for statement in text.split(";"):
            words = statement.lower().split(maxsplit=2)
            match words[:1]:
                case ["begin" | "start"]:
                    self._block = True
                case ["commit" | "end"]:
                    self._block = False
                case ["rollback"] if words[1:2] != ["to"]:
                    self._block = self._rows = False
            if _ROWS.search(statement):
                self._rows = True

    def _end(self) -> Step:
        if self._block or self._copying or not self._rows:
            return Step.OTHER
        self._rows = False
        return Step.COMMIT


class FaultProxy:
    """Listens on `port` and passes on to the server's socket. Faults hit connections only whose
    application name begins with `application`.

    `fired` counts them; `hold_seconds` delays each end of an answer, for everybody.
    """

    def __init__(self, socket_path: str, application: str = "headrace slot") -> None:
        self.socket_path = socket_path
        self.application = application
        self.port = 0
        self.fired: Counter[Fault] = Counter()
        self.commits = 0
        self.hold_seconds = 0.0
        self.refusing = False
        self._armed: list[Fault] = []
        self._connections: set[_Connection] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[FaultProxy]:
        """Listen on a free port."""
        server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            while self._connections:
                self.cut_all()
                await asyncio.sleep(0.001)

    def dsn_of(self, database: str, user: str = "postgres") -> str:
        """How to connect to this database through here."""
        return f"postgresql://{user}@{HOST}:{self.port}/{database}?sslmode=disable"

    def arm(self, fault: Fault, times: int = 1) -> None:
        """Have the next opportunities meet with this fault, after those that are armed already."""
        self._armed += [fault] * times

    def disarm(self) -> None:
        """Forget what has not happened yet."""
        self._armed.clear()

    @property
    def armed(self) -> int:
        """Faults that have not happened yet."""
        return len(self._armed)

    @property
    def ambiguous(self) -> int:
        """How often the service was left not knowing whether a commit had happened."""
        return sum(self.fired[fault] for fault in AMBIGUOUS)

    @property
    def swallows(self) -> bool:
        """Whether there is a hole. What would cancel a query falls into it as well."""
        return any(connection.silent for connection in self._connections)

    def cut_all(self) -> None:
        """Cut every connection, whatever it is doing."""
        for connection in list(self._connections):
            connection.cut()

    def next_fault(self, *among: Fault) -> Fault | None:
        """The first that is armed of these; it is not armed any more then."""
        fault = next((fault for fault in self._armed if fault in among), None)
        if fault is not None:
            self._armed.remove(fault)
        return fault

    def put_back(self, fault: Fault) -> None:
        """It could not happen after all."""
        self._armed.insert(0, fault)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        try:
            if not self.refusing:
                await connection.run()
        except (OSError, EOFError):
            pass  # one of the ends is gone, so the other one goes too
        finally:
            connection.cut()
            self._connections.discard(connection)


class _Connection:
    """One connection of the service and the one to the server that belongs to it."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = (reader, writer)
        self._server = (reader, writer)
        self._follower = Follower()
        self._is_target = False
        self._awaiting: Fault | None = None
        self.silent = False
        self._deaf = False
        self._held = bytearray()
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Pass on messages until one of the ends is gone."""
        startup = await self._startup()
        if startup is None:
            return
        self._server = await asyncio.open_unix_connection(self._proxy.socket_path)
        if startup[4:8] == _CANCEL.to_bytes(4):
            if not self._proxy.swallows:
                self._server[1].write(startup)
                await self._server[0].read()
            return
        self._server[1].write(startup)
        self._is_target = f"application_name\0{self._proxy.application}".encode() in startup
        ways = [asyncio.create_task(self._forth()), asyncio.create_task(self._back())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    def cut(self) -> None:
        """Let both ends find the connection gone."""
        self._over.set()
        self._client[1].transport.abort()
        self._server[1].transport.abort()

    async def _startup(self) -> bytes | None:
        """The first message that is no offer to encrypt."""
        reader, writer = self._client
        while True:
            size = await reader.readexactly(4)
            message = size + await reader.readexactly(int.from_bytes(size) - 4)
            if int.from_bytes(message[4:8]) not in (_SSL, _GSS):
                return message
            writer.write(b"N")

    async def _forth(self) -> None:
        """From the service to the server."""
        reader, (_, writer) = self._client[0], self._server
        while True:
            head = await reader.readexactly(5)
            body = await reader.readexactly(int.from_bytes(head[1:]) - 4)
            step = self._follower.sees(head[:1], body)
            message = head + body
            if self._is_target and step is not Step.OTHER:
                part = self._interfere(step, message)
                if part is not None:
                    writer.write(part)
                    while writer.transport.get_write_buffer_size():  # noqa: ASYNC110 - drain() is content with less
                        await asyncio.sleep(0.001)
                    if not self.silent:
                        return
            if self.silent:
                await reader.read()  # until the service has had enough, which the server is not told
                await self._over.wait()
            writer.write(message)
            await self._drained(writer)

    def _interfere(self, step: Step, message: bytes) -> bytes | None:
        """What of this message still goes to the server before the fault that is due here; None if there is none."""
        proxy = self._proxy
        if step is Step.DATA:
            fault = proxy.next_fault(Fault.CUT_MID_COPY)
            if fault is None:
                return None
            proxy.fired[fault] += 1
            return message[: len(message) // 2]
        proxy.commits += 1
        before = proxy.next_fault(Fault.CUT_BEFORE_COMMIT, Fault.HOLE_BEFORE_COMMIT, Fault.CUT_AT_COMMIT)
        if before is not None:
            proxy.fired[before] += 1
            self.silent = before is Fault.HOLE_BEFORE_COMMIT
            self._deaf = True
            return message if before is Fault.CUT_AT_COMMIT else b""
        self._awaiting = proxy.next_fault(Fault.CUT_AFTER_COMMIT, Fault.HOLE_AFTER_COMMIT)
        return None

    async def _back(self) -> None:
        """From the server to the service."""
        reader, writer = self._server[0], self._client[1]
        failed = False
        while True:
            head = await reader.readexactly(5)
            body = await reader.readexactly(int.from_bytes(head[1:]) - 4)
            self._held += head + body
            failed |= head[:1] == b"E"
            if head[:1] == b"Z":
                self._follower.ready(body)
                if self._awaiting is not None and self._ends_badly(committed=not failed):
                    if self.silent:
                        await self._over.wait()
                    return
                failed = False
                if self._proxy.hold_seconds:
                    await asyncio.sleep(self._proxy.hold_seconds)
            if self._deaf:
                self._held.clear()
            if self._awaiting is None and self._held:
                writer.write(bytes(self._held))
                self._held.clear()
                await self._drained(writer)

    def _ends_badly(self, *, committed: bool) -> bool:
        """The server has answered the message that commits: whether the service is kept from hearing it."""
        fault, self._awaiting = self._awaiting, None
        if fault is None:
            return False
        if not committed:
            self._proxy.put_back(fault)
            return False
        self._proxy.fired[fault] += 1
        self.silent = fault is Fault.HOLE_AFTER_COMMIT
        return True

    async def _drained(self, writer: asyncio.StreamWriter) -> None:
        if writer.transport.get_write_buffer_size() > 1 << 16:
            await writer.drain()
