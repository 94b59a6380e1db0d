"""The program's side of the engine: requests with callbacks, restarts, volumes that stay open."""

from __future__ import annotations

import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from SAMAutoSegLib.engine.arrays import share_array, take_array
from SAMAutoSegLib.engine.protocol import (
    ARRAY,
    Event,
    ProtocolError,
    parse_event,
    request_line,
)
from SAMAutoSegLib.engine.session import Session
from SAMAutoSegLib.engine.transport import Transport
from SAMAutoSegLib.errors import SAMAutoSegError

MOST_RESTARTS = 3
_WITHIN_SECONDS = 60.0

# Exit statuses of a process that the system killed, on Linux usually because memory ran out.
_KILLED = (-9, 9, 137)

OnProgress = Callable[[float, str, float | None], None]
OnSlice = Callable[[int, str, np.ndarray], None]
OnResult = Callable[[dict[str, Any]], None]
OnError = Callable[[str, str], None]


@dataclass
class PendingRequest:
    """A request that was sent; `done` once its last callback was called."""

    id: int
    do: str
    client: EngineClient = field(repr=False)
    done: bool = False

    def cancel(self) -> None:
        """Ask the engine to stop; what is finished by then comes with `on_cancelled`."""
        if not self.done:
            self.client.send("cancel", {"request": self.id})


@dataclass
class _Waiting:
    pending: PendingRequest
    params: dict[str, Any]
    on_progress: OnProgress | None
    on_slice: OnSlice | None
    on_result: OnResult | None
    on_error: OnError | None
    on_cancelled: OnResult | None


class EngineClient:
    """Talks to one engine process, which it starts, restarts and ends.

    Nothing here waits, except `stop` for a bounded time, and nothing heavy is imported. All
    callbacks are called where the transport calls its own; errors that are known at once (a full
    disk, too many crashes) reach `on_error` before `send` returns.

    Args:
        make_transport: makes a transport for every start of the process.
        on_state: told the state and one line about it: "stopped", "starting", "ready", "busy"
            (requests are under way), "failed" (the process ended by itself; the next request
            starts it again).
        on_log: told what the engine has to say besides.

    Attributes:
        state: the present one.
        transport: the present one.
        pid: of the engine's own process, once it is ready; launchers may stand in between.
    """

    def __init__(
        self,
        make_transport: Callable[[], Transport],
        on_state: Callable[[str, str], None] = lambda state, message: None,
        on_log: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.state = "stopped"
        self.transport: Transport | None = None
        self.pid: int | None = None
        self._make_transport = make_transport
        self._on_state = on_state
        self._on_log = on_log
        self._session: Session | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._volumes: dict[str, dict[str, Any]] = {}
        self._crashes: deque[float] = deque(maxlen=MOST_RESTARTS)
        self._last_id = 0

    def start(self) -> None:
        """Start the process unless it runs; volumes that were open are opened again.

        Raises:
            SAMAutoSegError: it cannot be started, or has ended by itself too often lately.
        """
        if self.transport is not None:
            return
        recent = [moment for moment in self._crashes if _now() - moment < _WITHIN_SECONDS]
        if len(recent) == MOST_RESTARTS:
            raise SAMAutoSegError(
                f"the computing process ended by itself {MOST_RESTARTS} times within a minute: "
                "wait a minute, close other programs or take a smaller model, and try again"
            )
        self._session = self._session or Session()
        transport = self._make_transport()
        transport.on_line = lambda line: self._on_line(transport, line)
        transport.on_finished = lambda code, tail: self._on_finished(transport, code, tail)
        transport.start()
        self.transport = transport
        self._tell("starting", "starting the computing process")
        hello = {"folder": str(self._session.folder)}
        self._request("hello", hello, self._on_hello, self._on_no_hello)
        for params in self._volumes.values():
            self._request("open_volume", params)

    def stop(self, seconds: float = 2.0) -> None:
        """End the process within about `seconds`, drop pending requests, remove all files.

        Pending requests get `on_cancelled` with nothing in it.
        """
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.write(request_line(self._next_id(), "shutdown", {}))
            transport.stop(seconds)
            self.pid = None
        waiting, self._waiting = list(self._waiting.values()), {}
        self._volumes = {}
        if self._session is not None:
            self._session.close()
            self._session = None
        for entry in waiting:
            entry.pending.done = True
            if entry.on_cancelled is not None:
                entry.on_cancelled({})
        self._tell("stopped", "")

    def send(
        self,
        do: str,
        params: Mapping[str, Any],
        *,
        on_progress: OnProgress | None = None,
        on_slice: OnSlice | None = None,
        on_result: OnResult | None = None,
        on_error: OnError | None = None,
        on_cancelled: OnResult | None = None,
    ) -> PendingRequest:
        """Send a request; the process is started first where it does not run.

        Args:
            do, params: see `protocol.REQUESTS`. Values may be numpy arrays: they are written to
                files for the engine, which `share_in_steps` does beforehand without a pause for
                large ones. `open_volume` needs no "volume": its result names one.
            on_progress: told the fraction done, a line, and the seconds left where known.
            on_slice: told number, plane and labels [rows, columns] of every finished slice.
            on_result: told the fields of the result, arrays opened.
            on_error: told one line for the user, and technical details.
            on_cancelled: told what was finished, with the fields of a result as far as it goes.

        Raises:
            ProtocolError: parameters that `protocol.REQUESTS` does not allow.
        """
        given = {name: value for name, value in params.items() if value is not None}
        if do == "open_volume":
            given.setdefault("volume", secrets.token_hex(4))
        pending = PendingRequest(self._next_id(), do, self)
        entry = _Waiting(pending, given, on_progress, on_slice, on_result, on_error, on_cancelled)
        try:
            self.start()
            self._share_arrays(given)
            line = request_line(pending.id, do, given)
        except ProtocolError:
            raise
        except SAMAutoSegError as error:
            pending.done = True
            if on_error is not None:
                on_error(str(error), "")
            return pending
        self._write(line, entry)
        return pending

    @property
    def folder(self) -> Path:
        """The session's folder, for `share_in_steps`; the process is started where it is not.

        Raises:
            SAMAutoSegError: as `start`.
        """
        self.start()
        assert self._session is not None
        return self._session.folder

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _request(
        self,
        do: str,
        params: dict[str, Any],
        on_result: OnResult | None = None,
        on_error: OnError | None = None,
    ) -> None:
        pending = PendingRequest(self._next_id(), do, self)
        entry = _Waiting(pending, params, None, None, on_result, on_error, None)
        self._write(request_line(pending.id, do, params), entry)

    def _write(self, line: str, entry: _Waiting) -> None:
        assert self.transport is not None
        self._waiting[entry.pending.id] = entry
        self.transport.write(line)
        self._tell_whether_busy()

    def _share_arrays(self, params: dict[str, Any]) -> None:
        assert self._session is not None
        for name, value in params.items():
            if isinstance(value, np.ndarray):
                params[name] = share_array(self._session.folder, value)

    def _on_hello(self, result: dict[str, Any]) -> None:
        self.pid = result.get("pid")
        words = f"Python {result.get('python')}, PyTorch {result.get('torch')}"
        self._tell("ready", words)
        self._tell_whether_busy()

    def _on_no_hello(self, message: str, details: str) -> None:
        """The process runs, but is of no use: another version, or PyTorch is missing."""
        if self.transport is not None:
            self.transport.kill()
            self._give_up(message, details)

    def _on_line(self, transport: Transport, line: str) -> None:
        if transport is not self.transport:
            return  # of a process that was given up
        try:
            event = parse_event(line)
        except ProtocolError as error:
            entry = None if error.id is None else self._finish(error.id)
            self._on_log(str(error))
            if entry is not None:
                self._fail(entry, str(error), line[:1000])
            return
        if event.id is None:
            self._on_log(event.fields["message"])
        elif event.id in self._waiting:
            self._dispatch(event, self._waiting[event.id])

    def _dispatch(self, event: Event, entry: _Waiting) -> None:
        fields = event.fields
        if event.name == "progress":
            if entry.on_progress is not None:
                entry.on_progress(fields["fraction"], fields["message"], fields.get("seconds_left"))
            return
        try:
            opened = self._opened(fields)
        except SAMAutoSegError as error:
            if event.name == "slice":
                self._on_log(str(error))  # the result holds it again
                return
            self._finish(entry.pending.id)
            self._fail(entry, str(error), "")
            return
        if event.name == "slice":
            if entry.on_slice is not None:
                entry.on_slice(opened["number"], opened["axis"], opened["array"])
            return
        self._finish(entry.pending.id)
        if event.name == "error":
            self._fail(entry, fields["message"], fields["details"])
        elif event.name == "cancelled":
            if entry.on_cancelled is not None:
                entry.on_cancelled(opened)
        else:
            self._follow_volumes(entry)
            if entry.on_result is not None:
                entry.on_result(opened)

    def _finish(self, id: int) -> _Waiting | None:
        entry = self._waiting.pop(id, None)
        if entry is not None:
            entry.pending.done = True
            self._tell_whether_busy()
        return entry

    def _opened(self, value: Any) -> Any:
        """The same with arrays in the place of array files."""
        if isinstance(value, dict):
            if ARRAY.holds(value):
                assert self._session is not None
                return take_array(self._session.folder, value)
            return {name: self._opened(item) for name, item in value.items()}
        return value

    def _follow_volumes(self, entry: _Waiting) -> None:
        """Know what is open, so that a new process can open it again."""
        if entry.pending.do == "open_volume":
            self._volumes[entry.params["volume"]] = entry.params
        elif entry.pending.do == "close_volume":
            params = self._volumes.pop(entry.params["volume"], None)
            if params is not None:
                with suppress(OSError):
                    os.unlink(params["array"]["file"])

    def _fail(self, entry: _Waiting, message: str, details: str) -> None:
        if entry.on_error is not None:
            entry.on_error(message, details)
        else:
            self._on_log(message)

    def _on_finished(self, transport: Transport, code: int, tail: str) -> None:
        if transport is not self.transport:
            return
        message = _why(code, tail, self.state in ("ready", "busy"))
        self._give_up(message, f"exit status {code}\n{tail}")

    def _give_up(self, message: str, details: str) -> None:
        """Fail what is pending; the next request starts the process again."""
        self.transport = self.pid = None
        self._crashes.append(_now())
        waiting, self._waiting = list(self._waiting.values()), {}
        if self._session is not None:
            self._session.clear({p["array"]["file"] for p in self._volumes.values()})
        self._tell("failed", message)
        for entry in waiting:
            entry.pending.done = True
            self._fail(entry, message, details)

    def _tell_whether_busy(self) -> None:
        if self.state in ("ready", "busy"):
            state = "busy" if self._waiting else "ready"
            if state != self.state:
                self._tell(state, "")

    def _tell(self, state: str, message: str) -> None:
        self.state = state
        self._on_state(state, message)


def _why(code: int, tail: str, was_ready: bool) -> str:
    if not was_ready:
        lines = [line for line in tail.splitlines() if line.strip()]
        reason = f" ({lines[-1].strip()})" if lines else ""
        return f"the computing process could not start{reason}: check the set-up"
    memory = ", perhaps because memory ran out" if code in _KILLED else ""
    return (
        f"the computing process ended unexpectedly{memory}: slices that were finished are kept; "
        "it starts again with the next command"
    )


def _now() -> float:
    return time.monotonic()
