"""What `headrace doctor` says about the machine and the address to listen on. Pure: facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterator

from service.doctor.findings import Finding, Group
from service.doctor.machine import Address, Machine, State
from service.http.connections import connections_that_fit
from service.http.listening import where
from service.settings import MIB, Settings

_MACHINE = Group("This machine")

_FILES_MIN = 4096
"""Some thousand connections are what one worker serves with ease; the usual 1,024 is less than that."""

_OWN_FILES = 32
"""What a worker opens beside the connections of clients: some 20 were seen."""

_WORKER_BYTES = 100 * MIB
"""A worker with nothing to do has 70 MiB."""


def check_machine(settings: Settings, machine: Machine, workers: int) -> Iterator[Finding]:
    """Whether the service has room here."""
    yield from _address(machine.address, wants_certificate=settings.tls_client_ca_file is not None)
    yield _files(settings, machine)
    if workers > machine.cores:
        yield _MACHINE.warning(
            f"{workers} workers are more than the {machine.cores} cores of this machine: they take turns",
            f"start {machine.cores} or fewer, and leave PostgreSQL a core if it runs here too",
        )
    if machine.memory_bytes is not None:
        yield _memory(settings, machine.memory_bytes, workers)


def _address(address: Address, *, wants_certificate: bool) -> Iterator[Finding]:
    at = where(address.host, address.port)
    match address.state:
        case State.FREE:
            yield _MACHINE.ok(f"{at} is free" if address.port else "the service picks a free port")
        case State.READY:
            yield _MACHINE.ok(f"a service runs at {at} and is ready; {address.words}")
        case State.UNREADY:
            yield _MACHINE.error(
                f"a service runs at {at}, but cannot store rows: {address.words}",
                "if it does not mend by itself, see its log and what is said about the database below",
            )
        case State.TAKEN if wants_certificate:
            yield _MACHINE.warning(
                f"what listens on {at} cannot be asked: clients need a certificate (HEADRACE_TLS_CLIENT_CA_FILE)",
                "set HEADRACE_ADMIN_PORT: health checks need no certificate there",
            )
        case State.TAKEN:
            yield _MACHINE.error(
                f"something else listens on {at}, or a service that does not answer",
                "set HEADRACE_PORT to another port, or find out what it is: ss -ltnp",
            )
        case State.UNUSABLE:
            yield _MACHINE.error(
                f"nobody can listen on {at}: {address.words}",
                "set HEADRACE_HOST to an address of this machine, HEADRACE_PORT to a free port above 1023",
            )


def _files(settings: Settings, machine: Machine) -> Finding:
    fits = connections_that_fit(machine.files)
    most = settings.connections_max or fits
    if most > machine.files - _OWN_FILES and settings.connections_max:
        said = (
            f"HEADRACE_CONNECTIONS_MAX is {most:,}, but only {machine.files:,} files may be open: connections beyond"
            f" {max(0, machine.files - _OWN_FILES):,} are closed without an answer or a line in the log"
        )
    elif machine.files < _FILES_MIN and not settings.connections_max:
        said = (
            f"only {machine.files:,} files may be open, and each connection of a client is one: those beyond {fits:,}"
            " are refused"
        )
    else:
        return _MACHINE.ok(f"{machine.files:,} files may be open; {most:,} of them may be connections of clients")
    raise_it = f"ulimit -n {min(machine.files_most, 65_536)}" if machine.files_most > machine.files else ""
    return _MACHINE.warning(
        said,
        f"raise the limit where the service is started: {raise_it + ' in a shell, ' if raise_it else ''}"
        "LimitNOFILE=65536 for systemd, --ulimit nofile=65536 for Docker",
    )


def _memory(settings: Settings, memory: int, workers: int) -> Finding:
    # Bodies on their way in have the same limit as rows that are pending, and count apart.
    need = workers * (2 * settings.pending_bytes_max + _WORKER_BYTES)
    many = "one worker" if workers == 1 else f"{workers} workers"
    said = f"{many} may take {need / MIB:,.0f} MiB at most; there are {memory / MIB:,.0f} MiB"
    if need <= memory:
        return _MACHINE.ok(said)
    fits = max(1, (memory // workers - _WORKER_BYTES) // 2)
    return _MACHINE.warning(
        f"{said}: under overload the system may end the service, with all that waits in it",
        f"set HEADRACE_PENDING_BYTES_MAX to {fits} or less, start fewer workers, or give it more memory",
    )
