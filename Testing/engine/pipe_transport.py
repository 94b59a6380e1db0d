"""The engine's process without Slicer: what `QProcessTransport` is there."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO

from SAMAutoSegLib.engine.protocol import LONGEST_LINE
from SAMAutoSegLib.engine.transport import engine_command, engine_environment
from SAMAutoSegLib.errors import SAMAutoSegError

_STDERR_LINES = 40


class PipeTransport:
    """See `SAMAutoSegLib.engine.transport.Transport`: pipes, and threads that read them.

    What they read waits until `pump` is called.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self.command = list(command or engine_command())
        self.on_line: Callable[[str], None] = lambda line: None
        self.on_finished: Callable[[int, str], None] = lambda code, tail: None
        self._process: subprocess.Popen[bytes] | None = None
        self._inbox: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._tail: deque[str] = deque(maxlen=_STDERR_LINES)
        self._threads: list[threading.Thread] = []

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        try:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **engine_environment()},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise SAMAutoSegError(
                f"cannot start {self.command[0]}: {error.strerror}; repair the installation"
            ) from error
        assert self._process.stdout is not None and self._process.stderr is not None
        self._threads = [
            threading.Thread(target=self._read_errors, args=(self._process.stderr,), daemon=True),
            threading.Thread(target=self._read_lines, args=(self._process.stdout,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def write(self, line: str) -> None:
        if self._process is None or self._process.stdin is None or self._process.stdin.closed:
            return
        with suppress(OSError):  # on_finished tells that it has ended
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def pump(self, seconds: float = 0.0) -> bool:
        """Call the callbacks for what has come; wait up to `seconds` for something to come."""
        came = False
        deadline = time.monotonic() + seconds
        while True:
            try:
                left = 0.0 if came else max(0.0, deadline - time.monotonic())
                line = self._inbox.get(timeout=left) if left else self._inbox.get_nowait()
            except queue.Empty:
                return came
            came = True
            if line is not None:
                self.on_line(line)
            elif self._process is not None:
                code = self._process.wait()
                self._end()
                self.on_finished(code, "\n".join(self._tail))

    def stop(self, seconds: float) -> None:
        if self._process is None:
            return
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._end()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._end()

    def _end(self) -> None:
        """Leave neither a zombie nor a pipe; what grandchildren hold open is not waited for."""
        assert self._process is not None
        self._process.wait()
        for thread in self._threads:
            thread.join(1.0)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None and not any(thread.is_alive() for thread in self._threads):
                with suppress(OSError):
                    stream.close()

    def _read_lines(self, stream: IO[bytes]) -> None:
        with suppress(ValueError, OSError):  # closed meanwhile
            while line := stream.readline(LONGEST_LINE):
                self._inbox.put(line.decode(errors="replace").rstrip("\r\n"))
        self._threads[0].join(1.0)
        self._inbox.put(None)

    def _read_errors(self, stream: IO[bytes]) -> None:
        with suppress(ValueError, OSError):
            while line := stream.readline(LONGEST_LINE):
                self._tail.append(line.decode(errors="replace").rstrip())
