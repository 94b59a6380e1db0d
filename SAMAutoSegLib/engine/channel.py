"""The engine's side of the line to its client: events out, requests in."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from SAMAutoSegLib.engine.protocol import (
    LONGEST_LINE,
    ProtocolError,
    Request,
    event_line,
    parse_request,
)

_BLOCK_BYTES = 1 << 16


class Channel:
    """Events to the client, from any thread, whole lines only."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, event: str, id: int | None = None, **fields: Any) -> None:
        """Write an event; `OSError` if the client has gone."""
        data = event_line(event, id, **fields).encode() + b"\n"
        with self._lock:
            while data:
                data = data[os.write(self._descriptor, data) :]


def read_requests(descriptor: int, channel: Channel, take: Callable[[Request], None]) -> None:
    """Hand over every request until the client closes the line.

    What is no request is answered with an error. The descriptor is read itself: a Python file
    would hold a lock that blocks the end of the process.
    """
    rest = b""
    too_long = False
    while block := os.read(descriptor, _BLOCK_BYTES):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if too_long:
                too_long = False  # the end of a line that was told already
            elif line.strip():
                _hand_over(line, channel, take)
        if len(rest) > LONGEST_LINE:
            if not too_long:
                words = f"a line of more than {LONGEST_LINE} characters is no request"
                channel.send("error", message=words, details="")
            rest, too_long = b"", True


def _hand_over(line: bytes, channel: Channel, take: Callable[[Request], None]) -> None:
    text = line.decode(errors="replace")
    try:
        request = parse_request(text)
    except ProtocolError as error:
        channel.send("error", error.id, message=str(error), details=text[:1000])
    else:
        take(request)
