"""``python -m SAMAutoSegLib.engine``: the engine process, see `protocol`.

It ends when its standard input is closed, and when the process that made the session's folder has
gone, even if a launcher in between holds the line open.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from SAMAutoSegLib.engine.channel import Channel, read_requests
from SAMAutoSegLib.engine.explain import explain
from SAMAutoSegLib.engine.lock import FileLock
from SAMAutoSegLib.engine.protocol import Request
from SAMAutoSegLib.engine.session import LOCK
from SAMAutoSegLib.engine.work_queue import WorkQueue
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.threads import let_waiting_threads_sleep

# For the thread that computes to come to the end of a slice.
_GRACE_SECONDS = 1.0

_SECONDS_BETWEEN_LOOKS = 1.0

# A launcher that starts the engine and dies would leave one that nobody ever speaks to.
_SECONDS_TO_HELLO = 120.0


class Line:
    """The reading end: sorts requests, watches that there is still somebody to answer."""

    def __init__(self, channel: Channel, work: WorkQueue) -> None:
        self.folder: Path | None = None
        self._channel = channel
        self._work = work
        self._told_to_end = False

    def read(self, descriptor: int) -> None:
        """Until the line is closed or asks to end; then the process ends."""
        with suppress(OSError):
            read_requests(descriptor, self._channel, self._take)
        self._work.close()
        time.sleep(_GRACE_SECONDS)
        self.end()

    def watch(self) -> None:
        """Until the client's process has gone; then this one ends too."""
        started = time.monotonic()
        while self.folder is None and time.monotonic() - started < _SECONDS_TO_HELLO:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        while self.folder is not None and not self._is_abandoned(self.folder):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        self.end()

    def end(self) -> None:
        """End the process, and remove the folder if its owner has gone without doing so."""
        if self.folder is not None and not self._told_to_end:
            # The system closes the files of a killed process one after the other.
            for _ in range(10):
                if self._is_abandoned(self.folder):
                    shutil.rmtree(self.folder, ignore_errors=True)
                    break
                time.sleep(0.05)
        # Without the tidying-up of Python, which would wait for the threads.
        os._exit(0)

    def _take(self, request: Request) -> None:
        if request.do == "shutdown":
            self._told_to_end = True
            self._work.close()
        elif request.do == "cancel":
            wanted = request.params["request"]
            if self._work.cancel(wanted):
                self._channel.send("cancelled", wanted)
            self._channel.send("result", request.id)
        else:
            if request.do == "hello":
                self.folder = Path(request.params["folder"])
            self._work.put(request)

    def _is_abandoned(self, folder: Path) -> bool:
        lock = FileLock(folder / LOCK)
        try:
            return lock.acquire()
        except SAMAutoSegError:  # removed already
            return True
        finally:
            lock.release()


def main() -> None:
    """Run the engine; does not return."""
    let_waiting_threads_sleep()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a console is meant for the client
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    channel, work = Channel(_own_standard_output()), WorkQueue()
    line = Line(channel, work)
    requests = _own_standard_input()
    threading.Thread(target=line.read, args=(requests,), daemon=True).start()
    threading.Thread(target=line.watch, daemon=True).start()
    with suppress(BrokenPipeError):
        _serve(channel, work, line)
    line.end()


def _serve(channel: Channel, work: WorkQueue, line: Line) -> None:
    try:
        from SAMAutoSegLib.engine.service import Service

        service = Service(channel, work, lambda: line.folder or Path())
    except Exception as error:
        logging.exception("the engine cannot start")
        message, details = explain(error)
        if isinstance(error, ImportError | OSError):
            message = f"PyTorch or another package cannot be loaded ({error}): install it again"
        while (request := work.take()) is not None:
            channel.send("error", request.id, message=message, details=details)
        return
    service.run()


def _own_standard_input() -> int:
    """A descriptor for requests alone, not the standard input of libraries.

    On Windows a library that asks for the state of its standard input when it is loaded, as the
    Fortran inside numpy does, would wait until the thread that reads from it has read something.
    """
    own = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return own


def _own_standard_output() -> int:
    """A descriptor for events alone: whatever libraries print goes to standard error."""
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return own


if __name__ == "__main__":
    main()
