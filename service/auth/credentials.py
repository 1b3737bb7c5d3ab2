"""Credentials: who shows which key or token, found out once for each and remembered as long as it holds.

Owns the memory of what has been verified, and looks each second whether API keys or key files have changed. Must not
know what anybody may do, nor where rows go.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread

from service.auth.keys import PREFIX, KeyRing, KnownKey
from service.auth.principal import GrantMalformed, Grants, Principal
from service.auth.refusals import api_keys_unknown, claims_invalid, token_invalid
from service.problems import Refused
from sql import CatalogWatch, Unavailable, api_keys

if TYPE_CHECKING:
    from service.auth.tokens import Verifier

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0

_REMEMBERED_MAX = 4096
"""Keys and tokens that are not verified again, each of up to 8 KiB."""

_ENDS_MAX = 16 * _REMEMBERED_MAX
"""Moments at which something that was verified expires. Beyond that, all is forgotten and begins anew."""

_TIMER_SECONDS_MAX = 60.0
"""The timer is monotonic, and expiry is a matter of the wall clock, which somebody may set meanwhile."""

CREDENTIAL_BYTES_MAX = 8 * 1024
"""Nothing larger is looked at: whatever is done with it takes time, and who sends it has proved nothing yet."""


class Credentials:
    """Knows who may write. `keys` reads the API keys, or is None where none are kept; `verifier` is None without JWT.

    `generation` goes up, and `on_change` is called from the event loop, when a principal that was handed out may no
    longer be one: he has expired, or keys have changed.
    """

    def __init__(
        self,
        keys: CatalogWatch | None,
        verifier: Verifier | None,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        self.generation = 0
        self.known = keys is None
        self.exist = verifier is not None
        self._database = keys
        self._verifier = verifier
        self._on_change = on_change
        self._ring = KeyRing()
        self._fingerprint = ""
        # What is looked up here was verified before. No time that this takes tells anything of a secret: strings are
        # compared only if their hashes, which are salted, agree.
        self._remembered: OrderedDict[str, Principal] = OrderedDict()
        self._ends: list[float] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tried = asyncio.Event()
        self._wanted = asyncio.Event()
        self._reread = False
        self._complaints: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Credentials({len(self._ring)} keys, jwt={self._verifier is not None})"

    # -------------------------------------------------------------------- for those who ask

    def principal(self, authorization: str, apikey: str) -> Principal | None:
        """Who shows these headers, "" being one that is absent; None if they hold no credential.

        `Authorization: Bearer …` counts, or else `apikey`. Raises `Refused`: 401, or 503 if that cannot be said yet.
        """
        scheme, _, shown = authorization.partition(" ")
        if scheme.lower() != "bearer":
            if not apikey:
                return None
            shown = apikey
        shown = shown.strip()
        found = self._remembered.get(shown)
        if found is not None and (found.expires_at is None or time.time() < found.expires_at):
            self._remembered.move_to_end(shown)
            return found
        return self._remember(shown, self._verified(shown))

    async def tried(self) -> None:
        """Wait until it was tried to read the API keys, with success or not."""
        await self._tried.wait()

    def request_reload(self) -> None:
        """Look now, and read key files even if they seem to be the same (SIGHUP)."""
        self._reread = True
        self._wanted.set()

    # -------------------------------------------------------------------- for the owner

    async def run(self) -> None:
        """Look each second whether keys have changed. Runs until it is cancelled."""
        self._tell_passed_over()
        try:
            if self._database is not None:
                await self._database.tried()
            while True:
                self._wanted.clear()
                await self._look()
                self._tried.set()
                try:
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._wanted.wait()
                except TimeoutError:
                    pass
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def _look(self) -> None:
        """Whatever goes wrong, what is known goes on to hold."""
        for what, look in (("API keys", self._look_for_keys), ("JWT keys", self._look_for_files)):
            try:
                await look()
                self._complaints.pop(what, None)
            except Exception as error:
                complaint = str(error) or type(error).__name__
                if complaint != self._complaints.get(what):  # once for each reason, not each second
                    logger.exception("cannot look after the %s", what)
                self._complaints[what] = complaint

    # -------------------------------------------------------------------- verifying

    def _verified(self, shown: str) -> Principal:
        if len(shown) > CREDENTIAL_BYTES_MAX:
            raise Refused(token_invalid(f"The credential is longer than {CREDENTIAL_BYTES_MAX} bytes"))
        if not shown:
            raise Refused(token_invalid("Empty JWT is sent in Authorization header"))
        if shown.startswith(PREFIX):
            return self._verified_key(shown)
        if self._verifier is None:
            raise Refused(token_invalid("This is no API key, and no JWT is taken here"))
        return self._verifier.verify(shown)

    def _verified_key(self, shown: str) -> Principal:
        if not self.known:
            raise Refused(api_keys_unknown())
        owner = self._ring.owner_of(shown)
        if owner is None:
            raise Refused(token_invalid("API key invalid"))
        if owner.expires_at is not None and owner.expires_at <= time.time():
            raise Refused(claims_invalid("API key expired"))
        return owner

    # -------------------------------------------------------------------- remembering

    def _remember(self, shown: str, principal: Principal) -> Principal:
        if len(self._ends) >= _ENDS_MAX:
            self._forget()
        self._remembered[shown] = principal
        self._remembered.move_to_end(shown)
        if len(self._remembered) > _REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        end = principal.expires_at
        if end is not None:
            # It stays here when there is no more room for the principal, since others may remember him.
            heapq.heappush(self._ends, end)
            if self._ends[0] == end:
                self._set_timer()
        return principal

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ends:
            loop = asyncio.get_running_loop()
            delay = min(max(0.0, self._ends[0] - time.time()), _TIMER_SECONDS_MAX)
            self._timer = loop.call_at(loop.time() + delay, self._ring_out)

    def _ring_out(self) -> None:
        """Forget who has expired by now."""
        now = time.time()
        some = False
        while self._ends and self._ends[0] <= now:
            heapq.heappop(self._ends)
            some = True
        if some:
            expired = [
                shown
                for shown, principal in self._remembered.items()
                if principal.expires_at is not None and principal.expires_at <= now
            ]
            for shown in expired:
                del self._remembered[shown]
            self._changed()
        self._set_timer()

    def _forget(self) -> None:
        """Verify everything again from now on."""
        self._remembered.clear()
        self._ends.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._changed()

    def _changed(self) -> None:
        self.generation += 1
        self._on_change()

    # -------------------------------------------------------------------- what has changed

    async def _look_for_keys(self) -> None:
        if self._database is None:
            return
        try:
            kept = await self._database.ask(partial(api_keys.look, fingerprint=self._fingerprint))
        except api_keys.KeysDenied as error:
            self._close(str(error))
        except (Unavailable, TimeoutError):
            pass  # the watch has said so, and known keys are good
        else:
            if kept is not None:
                self._take(kept)

    def _close(self, reason: str) -> None:
        """There are keys, and which ones nobody can tell any more: one that was good may have been revoked."""
        if reason != self._complaints.get("rights"):
            self._complaints["rights"] = reason
            logger.error("API keys cannot be read, so nobody can write with one: %s", reason)
        if self.known or not self.exist:
            self.exist = True
            self.known = False
            self._ring = KeyRing()
            self._fingerprint = ""
            self._forget()

    def _take(self, kept: api_keys.Kept) -> None:
        known = []
        for key, digest in kept.living:
            try:
                grants = Grants.parse(key.grants)
                expires_at = None if key.expires_at is None else key.expires_at.timestamp()
            except (GrantMalformed, TypeError, ValueError, OverflowError) as error:  # somebody has written it by hand
                logger.warning("API key %s is refused: %s", key.name, error)
                continue
            principal = Principal(f"key {key.name}", grants, expires_at, key.rows_per_second, key.queue_share)
            known.append(KnownKey(key.id, digest, principal))
        self._ring = KeyRing(known)
        self._fingerprint = kept.fingerprint
        # Whoever drops the table does not open the service for everybody before it is started again.
        self.exist = self.exist or kept.any
        self.known = True
        self._complaints.pop("rights", None)
        if kept.any:
            logger.info("API keys: %d", len(known))
        self._forget()

    async def _look_for_files(self) -> None:
        if self._verifier is None:
            return
        look = partial(self._verifier.newer, reread=self._reread)
        self._reread = False
        try:
            newer = await anyio.to_thread.run_sync(look, abandon_on_cancel=True)
        except ValueError as error:
            if str(error) != self._complaints.get("files"):
                self._complaints["files"] = str(error)
                logger.warning("JWT keys stay as they were: %s", error)
            return
        if newer is not None:
            self._verifier = newer
            self._complaints.pop("files", None)
            logger.info("read the JWT keys again")
            self._tell_passed_over()
            self._forget()

    def _tell_passed_over(self) -> None:
        for reason in self._verifier.passed_over if self._verifier is not None else ():
            logger.warning("a key in HEADRACE_JWT_JWKS_FILE is not used: %s", reason)
