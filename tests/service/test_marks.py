"""The names that requests have."""

from __future__ import annotations

import pytest

from service.dialect.marks import Marks

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("marks", "name"),
    [
        (Marks(), ""),
        (Marks(request_id=b"run-4711"), "run-4711"),
        (Marks(request_id=b"run-4711", traceparent=TRACE.encode()), "run-4711"),
        (Marks(traceparent=TRACE.encode()), "0af7651916cd43dd8448eb211c80319c"),
        (Marks(traceparent=TRACE.replace("00-", "cc-", 1).encode() + b"-more"), "0af7651916cd43dd8448eb211c80319c"),
        (Marks(traceparent=TRACE.replace("00-", "ff-", 1).encode()), ""),
        (Marks(traceparent=b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01"), ""),
        (Marks(traceparent=b"00-0af7651916cd43dd8448eb211c80319c-" + b"0" * 16 + b"-01"), ""),
        (Marks(traceparent=TRACE.upper().encode()), ""),
        (Marks(traceparent=b"nonsense"), ""),
        (Marks(request_id=b"x" * 128), "x" * 128),
        (Marks(request_id=b"x" * 129), ""),
        (Marks(request_id=b"\xe4"), ""),
        (Marks(request_id=b"a\tb"), ""),
    ],
)
def test_the_name_of_a_request(marks: Marks, name: str) -> None:
    """Its own id, or that of its trace (W3C Trace Context); what is neither goes nowhere."""
    assert marks.name == name
