"""`headrace load`: rows of a file → requests to a running service → what became of every row.

`Loader` is the thin shell between `rowfile`, which reads, and `verdict`, which judges the answers. Knows the service by
its HTTP dialect only. Sends rows again only if it is sure that they were not stored.
"""

from __future__ import annotations

import bisect
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import quote

import anyio
import anyio.to_thread
import httpx2
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from service.commands.rowfile import Chunk, File, LoadError, Refusal, Row, Source, chunks, open_source, read_rows
from service.commands.verdict import Kind, Verdict, divide, judge

DEFAULT_URL = "http://127.0.0.1:8000/rest/v1"

_CONNECT_SECONDS_MAX = 10.0
_RECONNECT_SECONDS = 0.5  # a refused connection costs next to nothing; a service that restarts is found soon
_JITTER_SECONDS = 0.05, 0.25  # so that requests that were refused together do not come back together

_KEEPALIVE_SECONDS = 2.0
"""Less than the 5 s after which uvicorn closes an idle connection: rows that were sent just then would be unknown."""

_REFUSALS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the rows go. `url` is that of the service with its prefix; `schema` None is the service's first."""

    table: str
    url: str = DEFAULT_URL
    schema: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once, and when to give up. `errors_max` counts refused rows and requests of unknown outcome."""

    request_rows_max: int = 5_000
    request_bytes_max: int = 1024 * 1024  # held in memory `in_flight` times
    in_flight: int = 4
    errors_max: int = 100
    retry_seconds_max: float = 300.0
    answer_seconds_max: float = 120.0  # the service's own limits, 10 s to wait and 20 s to write, end long before


@dataclass(frozen=True, slots=True)
class Job:
    """One load."""

    file: File
    destination: Destination
    limits: Limits = Limits()


def run(job: Job) -> Report:
    """Load a file, with a progress bar on a terminal and Ctrl-C for stopping early. Raises `LoadError`."""
    return anyio.run(load, job, backend_options={"use_uvloop": True})


async def load(job: Job) -> Report:
    """As `run`, in an event loop that runs already (of the main thread: signals are received there)."""
    with open_source(job.file) as source, _progress(source) as progress:
        notice = partial(progress.console.print, markup=False, highlight=False)
        loader = Loader(source, job, notice)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_heed_signals, loader, notice)
            tasks.start_soon(_show_progress, loader, source, progress)
            await loader.run()
            tasks.cancel_scope.cancel()
        return loader.report


# -------------------------------------------------------------------- what became of the rows


@dataclass(frozen=True, slots=True, order=True)
class Stretch:
    """Rows of one request that share a fate: the lines of the first and the last, how many, and why."""

    first: int
    last: int
    rows: int
    reason: str = ""

    @classmethod
    def of(cls, rows: list[Row], reason: str = "") -> Stretch:
        """The stretch of these rows."""
        return cls(rows[0].line, rows[-1].line, len(rows), reason)

    def __str__(self) -> str:
        return f"lines {self.first} to {self.last} ({self.rows:,} rows)" if self.rows > 1 else f"line {self.first}"


@dataclass(slots=True)
class Report:
    """What became of the rows. `refusals` are the first ones by line; `stopped` says why the load ended early."""

    stored: int = 0
    refused: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    unknown: list[Stretch] = field(default_factory=list)
    unsent: list[Stretch] = field(default_factory=list)
    read_to_line: int = 0
    stopped: str | None = None
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every row of the file is stored."""
        return not (self.refused or self.unknown or self.stopped)

    @property
    def errors(self) -> int:
        """What `errors_max` limits."""
        return self.refused + len(self.unknown)

    def refuse(self, refusal: Refusal) -> None:
        """Count a refused row, and keep it if it is among the first."""
        self.refused += 1
        bisect.insort(self.refusals, refusal, key=lambda kept: kept.line)
        del self.refusals[_REFUSALS_SHOWN:]

    def summary(self) -> str:
        """One line of numbers."""
        unknown = sum(stretch.rows for stretch in self.unknown)
        per_second = self.stored / self.seconds if self.seconds else 0
        return (
            f"stored {self.stored:,}, refused {self.refused:,}, unknown {unknown:,} rows "
            f"in {self.seconds:.1f} s ({per_second:,.0f} rows/s)"
        )

    def complaints(self) -> list[str]:
        """Whatever is not stored: one line each."""
        lines = [
            f"line {refusal.line}" + (f", column {refusal.column}" if refusal.column else "") + f": {refusal.message}"
            for refusal in self.refusals
        ]
        if self.refused > len(self.refusals):
            lines.append(f"and {self.refused - len(self.refusals):,} more refused rows")
        lines += [f"unknown whether stored: {stretch}: {stretch.reason}" for stretch in sorted(self.unknown)]
        lines += [f"not sent: {stretch}" for stretch in sorted(self.unsent)]
        if self.stopped:
            lines += [f"not read: what follows line {self.read_to_line}", f"stopped: {self.stopped}"]
        return lines


# -------------------------------------------------------------------- sending


class Loader:
    """Sends the rows of a source, several requests at once; `report` grows meanwhile. Waits are told to `notice`.

    Raises `LoadError` for a URL or header that cannot be.
    """

    def __init__(self, source: Source, job: Job, notice: Callable[[str], None]) -> None:
        self.report = Report()
        self._limits = limits = job.limits
        self._url = f"{job.destination.url.rstrip('/')}/{quote(job.destination.table, safe='')}"
        self._client = _client(self._url, job)
        self._notice = notice
        self._noticed = ""
        self._interrupt_read = source.interrupt
        rows = read_rows(source, job.file)
        self._chunks: Iterator[Chunk] = chunks(rows, limits.request_rows_max, limits.request_bytes_max)
        self._reading = anyio.Lock()
        self._stopped = anyio.Event()
        self._exchanges: set[anyio.CancelScope] = set()

    @property
    def stopping(self) -> bool:
        """Whether nothing more is sent."""
        return self._stopped.is_set()

    def stop(self, reason: str) -> None:
        """Send nothing more; `run` ends when what was sent is answered."""
        if not self.stopping:
            self.report.stopped = reason
            self._stopped.set()
            self._interrupt_read()

    def cut(self) -> None:
        """Do not wait for answers either."""
        for exchange in self._exchanges:
            exchange.cancel()

    async def run(self) -> None:
        """Send everything."""
        started = anyio.current_time()
        async with self._client, anyio.create_task_group() as tasks:
            for _ in range(self._limits.in_flight):
                tasks.start_soon(self._work)
        self.report.seconds = anyio.current_time() - started

    async def _work(self) -> None:
        """One of the requests in flight: a chunk after the other."""
        while chunk := await self._next_chunk():
            for refusal in chunk.refusals:
                self.report.refuse(refusal)
            self._count_errors()
            if chunk.rows:
                await self._store(chunk.rows)

    async def _next_chunk(self) -> Chunk | None:
        async with self._reading:
            if self.stopping:
                return None
            try:
                # In a thread: reading may block, and parsing would keep the answers waiting.
                chunk = await anyio.to_thread.run_sync(next, self._chunks, None)
            except LoadError as error:
                self.stop(str(error))
                return None
            if chunk is None or self.stopping:  # what came of a read that was interrupted may be half a row
                return None
            self.report.read_to_line = chunk.last_line
            return chunk

    async def _store(self, rows: list[Row]) -> None:
        """Send rows until each is stored, refused, unknown or, after a stop, known not to be sent."""
        pending = [rows]
        while pending:
            rows = pending.pop()
            verdict = await self._answer(rows)
            match verdict.kind:
                case Kind.STORED:
                    self.report.stored += len(rows)
                case Kind.UNKNOWN:
                    self.report.unknown.append(Stretch.of(rows, verdict.message))
                case Kind.LATER:
                    self.report.unsent.append(Stretch.of(rows))
                case Kind.REQUEST:
                    self._abort(rows, verdict)
                case Kind.TOO_LARGE if len(rows) == 1:
                    self._abort(rows, verdict)
                case _:
                    refused, again = divide(rows, verdict)
                    if refused is not None:
                        self.report.refuse(Refusal(refused.line, verdict.column, verdict.message))
                    pending += reversed(again)
            self._count_errors()

    def _abort(self, rows: list[Row], verdict: Verdict) -> None:
        self.report.unsent.append(Stretch.of(rows))
        line = f"line {rows[verdict.row - 1].line}: " if 1 <= verdict.row <= len(rows) else ""
        self.stop(line + verdict.message)

    def _count_errors(self) -> None:
        if self.report.errors >= self._limits.errors_max:
            self.stop(f"{self.report.errors} errors are enough (--errors-max)")

    async def _answer(self, rows: list[Row]) -> Verdict:
        """Send rows until the answer is another than LATER, or the load stops."""
        body = b"\n".join([row.data for row in rows]) + b"\n"
        give_up_at: float | None = None
        verdict = Verdict(Kind.LATER)
        while not self.stopping:
            verdict = await self._exchange(body)
            if verdict.kind is not Kind.LATER:
                break
            pause = verdict.seconds + random.uniform(*_JITTER_SECONDS)  # noqa: S311 - spreads retries, protects nothing
            now = anyio.current_time()
            give_up_at = give_up_at or now + self._limits.retry_seconds_max
            if now + pause > give_up_at:
                self.stop(f"not stored after {self._limits.retry_seconds_max:g} s of trying: {verdict.message}")
                break
            if verdict.message != self._noticed:
                self._noticed = verdict.message
                self._notice(f"waiting: {verdict.message}")
            with anyio.move_on_after(pause):
                await self._stopped.wait()
        return verdict

    async def _exchange(self, body: bytes) -> Verdict:
        """One request and what its answer, or that there was none, means."""
        with anyio.CancelScope() as scope:
            self._exchanges.add(scope)
            try:
                return judge(await self._client.post(self._url, content=body))
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                return Verdict(Kind.LATER, f"no connection to {self._url}: {error}", _RECONNECT_SECONDS)
            except (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as error:
                # It did not leave this process. What is said of a header would quote its value, which may be a secret.
                is_header = "header" in str(error)
                return Verdict(Kind.REQUEST, "a header cannot be sent" if is_header else str(error))
            except httpx2.HTTPError as error:
                return Verdict(Kind.UNKNOWN, f"no answer: {str(error) or type(error).__name__}")
            finally:
                self._exchanges.discard(scope)
        return Verdict(Kind.UNKNOWN, "left before the answer")


def _client(url: str, job: Job) -> httpx2.AsyncClient:
    destination, limits = job.destination, job.limits
    headers = [("content-type", "application/x-ndjson"), *destination.headers]
    if destination.schema is not None:
        headers.append(("content-profile", destination.schema))
    try:
        if httpx2.URL(url).scheme not in ("http", "https"):
            raise LoadError(f"{url}: the URL must begin with http:// or https://")
        return httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(limits.answer_seconds_max, connect=_CONNECT_SECONDS_MAX, pool=None),
            limits=httpx2.Limits(max_connections=limits.in_flight, keepalive_expiry=_KEEPALIVE_SECONDS),
        )
    except (httpx2.InvalidURL, UnicodeEncodeError) as error:
        raise LoadError(f"the URL or a header cannot be sent: {error}") from error


# -------------------------------------------------------------------- the terminal


async def _heed_signals(loader: Loader, notice: Callable[[str], None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if loader.stopping:
                loader.cut()
            else:
                loader.stop("interrupted")
                notice("stopping when what was sent is answered; once more to leave now")


@contextmanager
def _progress(source: Source) -> Iterator[Progress]:
    console = Console(stderr=True, soft_wrap=True)
    columns = [BarColumn(), TaskProgressColumn(), DownloadColumn()] if source.size is not None else []
    rows = TextColumn("{task.fields[rows]:,} rows, {task.fields[per_second]:,.0f} rows/s")
    with Progress(*columns, rows, console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
        progress.add_task("", total=source.size, rows=0, per_second=0.0)
        yield progress


async def _show_progress(loader: Loader, source: Source, progress: Progress) -> None:
    started = anyio.current_time()
    while not progress.disable:
        await anyio.sleep(0.1)
        stored = loader.report.stored
        per_second = stored / (anyio.current_time() - started)
        position = source.position() if source.size is not None else 0
        progress.update(TaskID(0), completed=position, rows=stored, per_second=per_second)
