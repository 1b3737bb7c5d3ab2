"""What a request says of itself alone: its idempotency key, and the names by which it is found again.

Pure: headers in, a frozen value out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

_ID_CHARACTERS_MAX = 128

# Version, trace, parent and flags (W3C Trace Context, section 3.2.2); a later version may say more behind a dash.
_find_trace = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-|$)").match
_PARENT_BYTES_MAX = 512

# What vendors have to say about the trace, of which 512 bytes must be passed on (section 3.3).
_KEY = rb"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_MEMBER = rb"[ \t]*(?:%b=[ -+\--<>-~]{0,255}[!-+\--<>-~][ \t]*)?" % _KEY
_is_state = re.compile(rb"%b(?:,%b){0,31}" % (_MEMBER, _MEMBER)).fullmatch
_STATE_BYTES_MAX = 512


class Marks(msgspec.Struct, frozen=True):
    """Its `Idempotency-Key` headers as they came, its `X-Request-Id`, its `traceparent` and `tracestate`."""

    keys: tuple[bytes, ...] = ()
    request_id: bytes = b""
    traceparent: bytes = b""
    tracestate: bytes = b""

    @property
    def name(self) -> str:
        """What the request is called in answers and logs: its id, the id of its trace, or ""."""
        text = self.request_id.decode("latin-1")
        if 0 < len(text) <= _ID_CHARACTERS_MAX and text.isascii() and text.isprintable():
            return text
        trace = _find_trace(self.traceparent)
        return "" if trace is None else trace[1].decode()

    @property
    def trace_context(self) -> dict[str, str]:
        """The headers of W3C Trace Context that it has; without those that are none, which OpenTelemetry would log."""
        if _find_trace(self.traceparent) is None or len(self.traceparent) > _PARENT_BYTES_MAX:
            return {}
        context = {"traceparent": self.traceparent.decode("latin-1")}
        if 0 < len(self.tracestate) <= _STATE_BYTES_MAX and _is_state(self.tracestate):
            context["tracestate"] = self.tracestate.decode()
        return context


NO_MARKS = Marks()


def marks_of(headers: Iterable[tuple[bytes, bytes]]) -> Marks:
    """The marks in these headers, their names in lower case; `NO_MARKS` itself if there are none."""
    keys: list[bytes] = []
    states: list[bytes] = []
    request_id = traceparent = b""
    for name, value in headers:
        if name == b"idempotency-key":
            keys.append(value.strip())
        elif name == b"x-request-id" and not request_id:
            request_id = value.strip()
        elif name == b"traceparent" and not traceparent:
            traceparent = value.strip()
        elif name == b"tracestate":
            states.append(value)
    if not (keys or request_id or traceparent):
        return NO_MARKS
    return Marks(tuple(keys), request_id, traceparent, b",".join(states))
