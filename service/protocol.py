"""The HTTP protocol of `headrace serve`: uvicorn's, with its own refusals in our form."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.problems import MALFORMED_HTTP


class Protocol(HttpToolsProtocol):
    """One connection."""

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words; ours are one constant
        """Refuse bytes that are no HTTP request, and close."""
        answer = MALFORMED_HTTP.answer
        headers = [
            *self.server_state.default_headers,
            *((name.encode(), value.encode()) for name, value in answer.headers),
            (b"content-length", b"%d" % len(answer.body)),
            (b"connection", b"close"),
        ]
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        self.transport.write(STATUS_LINE[answer.status] + lines + b"\r\n" + answer.body)
        self.transport.close()
