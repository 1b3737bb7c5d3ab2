"""The floor: what one Python process needs to parse a request, decode its row and answer. It stores nothing.

A bare asyncio protocol with the parser, the decoder and the event loop that the service uses too. Whatever the service
costs more than this is for keeping its promises. `python -m bench.baselines.floor PORT`.
"""

from __future__ import annotations

import asyncio
import sys

import httptools
import msgspec
import uvloop

CREATED = b"HTTP/1.1 201 Created\r\ncontent-range: */*\r\ncontent-length: 0\r\n\r\n"
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Row(msgspec.Struct):
    """The five columns that a request carries."""

    device_id: str
    ts: str
    temperature: float | None = None
    humidity: float | None = None
    status: str | None = None


decode = msgspec.json.Decoder(Row).decode


class Floor(asyncio.Protocol):
    """One connection. The callbacks are the parser's; they keep what a real server would have to look at."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    def data_received(self, data: bytes) -> None:
        """Parse what came; `on_message_complete` answers."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.write(BAD_REQUEST)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Forget the last request."""
        self.url = b""
        self.headers = []
        self.body = b""

    def on_url(self, url: bytes) -> None:
        """Keep the target."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        """Keep the body."""
        self.body += body

    def on_message_complete(self) -> None:
        """Decode the row and answer."""
        try:
            decode(self.body)
        except msgspec.MsgspecError:
            self.transport.write(BAD_REQUEST)
        else:
            self.transport.write(CREATED)


async def serve(port: int) -> None:
    """Listen until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Floor, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
