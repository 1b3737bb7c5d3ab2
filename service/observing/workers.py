"""What the workers of one service tell each other: each keeps its newest numbers in a file of a folder they share.

Owns the files. A worker is alive as long as it holds the lock on its own; what the others have counted is kept, so
that counters do not fall. Nothing here waits, and no trouble with files is more than a line in the log. Must not know
what is in the numbers, beyond adding them up.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import msgspec

from service.observing.numbers import OUTCOMES, Numbers, State, TableNumbers, decode, encode, together

logger = logging.getLogger(__name__)

_DEPARTED = "departed"
_LEFT_OVER_SECONDS = 60.0
"""A file that is half written for so long is nobody's."""

_UNKNOWN = OUTCOMES.index("unknown")


class Workers:
    """The other workers. `folder` is None if there are none; it is made if it is not there."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._name = uuid4().hex
        self._lock: int | None = None
        self._seen: list[Numbers] = []
        self._complaint = ""
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._begin(folder)
            new = folder / f"{self._name}.new"
            self._lock = os.open(new, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            new.rename(folder / f"{self._name}.lock")  # nobody finds it unlocked

    @property
    def are_several(self) -> bool:
        """Whether there may be others."""
        return self._folder is not None

    def publish(self, numbers: Numbers) -> None:
        """Tell the others."""
        if self._folder is not None and self._lock is not None:
            self._write(self._folder / self._name, encode(numbers))

    def leave(self, numbers: Numbers) -> None:
        """Tell the others for the last time."""
        self.publish(numbers)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def forget(self) -> None:
        """After a fork: it is the other process that is present, and its lock would outlive it here."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @staticmethod
    def nobody_in(folder: Path) -> bool:
        """Whether all who were in this folder have gone."""
        return all(_is_free(lock) for lock in folder.glob("*.lock") if lock.stem != _DEPARTED)

    def others(self) -> list[Numbers]:
        """The numbers of the others, and of those that have gone."""
        if self._folder is None:
            return []
        try:
            with _locked(self._folder, fcntl.LOCK_SH):
                self._seen, gone = self._look(self._folder)
            if gone:
                with _locked(self._folder, fcntl.LOCK_EX):
                    self._bury(self._folder)
        except BlockingIOError:
            pass  # somebody is burying: what was seen before is as good
        except OSError as error:
            self._complain(f"cannot look for other workers in {self._folder}: {error}")
        return self._seen

    def _look(self, folder: Path) -> tuple[list[Numbers], list[str]]:
        """The numbers of all others; the names of those that have gone."""
        departed, buried = self._departed(folder)
        found, gone = departed, []
        for lock in folder.glob("*.lock"):
            name = lock.stem
            if name in (self._name, _DEPARTED):
                continue
            is_gone = _is_free(lock)
            if is_gone:
                gone.append(name)
            if name not in buried:
                last = self._read(folder / name)
                found = [*found, *([_at_rest(numbers) for numbers in last] if is_gone else last)]
        return found, gone

    def _bury(self, folder: Path) -> None:
        """Add the numbers of those that have gone to those of the departed."""
        _, gone = self._look(folder)
        departed, buried = self._departed(folder)
        new = [_at_rest(numbers) for name in gone if name not in buried for numbers in self._read(folder / name)]
        # Their names stay with the numbers until their files are gone, so that none is counted twice.
        names = msgspec.json.encode(gone)
        whole = encode(together([*departed, *new])) if departed or new else b""
        if whole and not self._write(folder / _DEPARTED, len(names).to_bytes(4, "big") + names + whole):
            return
        for name in gone:
            (folder / name).unlink(missing_ok=True)
            (folder / f"{name}.lock").unlink(missing_ok=True)
        for path in folder.glob("*.new"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _LEFT_OVER_SECONDS:
                    path.unlink()

    def _begin(self, folder: Path) -> None:
        """Whoever finds nobody alive is the first of a new service, and counts from nought."""
        try:
            with _locked(folder, fcntl.LOCK_EX):
                locks = [lock for lock in folder.glob("*.lock") if lock.stem != _DEPARTED]
                if all(_is_free(lock) for lock in locks):
                    for lock in locks:
                        (folder / lock.stem).unlink(missing_ok=True)
                        lock.unlink(missing_ok=True)
                    (folder / _DEPARTED).unlink(missing_ok=True)
        except BlockingIOError:
            pass  # somebody is there

    def _departed(self, folder: Path) -> tuple[list[Numbers], list[str]]:
        """The numbers of those that were buried, together, and the names of those whose files may be there still."""
        try:
            content = (folder / _DEPARTED).read_bytes()
        except FileNotFoundError:
            return [], []
        size = int.from_bytes(content[:4], "big")
        try:
            return [decode(content[4 + size :])], msgspec.json.decode(content[4 : 4 + size], type=list[str])
        except ValueError as error:
            self._complain(f"cannot read the numbers of earlier workers in {folder / _DEPARTED}: {error}")
            return [], []

    def _read(self, path: Path) -> list[Numbers]:
        """The numbers in a file, if it is there and can be read."""
        try:
            return [decode(path.read_bytes())]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            self._complain(f"cannot read the numbers of another worker in {path}: {error}")
            return []

    def _write(self, path: Path, content: bytes) -> bool:
        """Replace a file as a whole: whoever reads it has the old one or the new one. Whether that was done."""
        new = path.with_name(f"{path.name}.{self._name[:8]}.new")
        try:
            new.write_bytes(content)
            new.replace(path)
        except OSError as error:
            self._complain(f"cannot write the numbers of this worker to {path}: {error}")
            return False
        return True

    def _complain(self, complaint: str) -> None:
        """Once for each reason, not five times a second."""
        if complaint != self._complaint:
            self._complaint = complaint
            logger.warning(complaint)


def _at_rest(numbers: Numbers) -> Numbers:
    """What a worker has counted, when it is no more. What became of the requests it had not answered, nobody knows."""
    totals = numbers.totals()
    nowhere = numbers.tables.setdefault("", TableNumbers())
    nowhere.requests[_UNKNOWN] += numbers.received_requests - sum(totals.requests)
    nowhere.rows[_UNKNOWN] += numbers.received_rows - sum(totals.rows)
    return msgspec.structs.replace(numbers, state=State(*[0] * len(State.__struct_fields__)))


def _is_free(lock: Path) -> bool:
    """Whether nobody holds the lock. If that cannot be said, somebody may."""
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Hold the folder's own lock. Raises `BlockingIOError` instead of waiting for it, and other `OSError`."""
    handle = os.open(folder / f"{_DEPARTED}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
