"""How a client reaches its engine process: started, written to, read from, ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Transport(Protocol):
    """One run of the engine process.

    The client sets the two callbacks before `start`. They are called in the thread that uses the
    client, never from within `start`, `write`, `stop` or `kill`.

    Attributes:
        on_line: told every line of standard output, without the line break.
        on_finished: told once, after the last line, that the process has ended or could not be
            started: its exit status (negative for a signal) and the last lines of standard error.
    """

    on_line: Callable[[str], None]
    on_finished: Callable[[int, str], None]

    @property
    def running(self) -> bool: ...

    def start(self) -> None:
        """Start the process; `SAMAutoSegError` if that is known to have failed."""
        ...

    def write(self, line: str) -> None:
        """Write a line to standard input; nothing happens where the process has ended."""
        ...

    def stop(self, seconds: float) -> None:
        """Close standard input, which ends the engine; kill it if it runs on after `seconds`."""
        ...

    def kill(self) -> None:
        """End the process at once."""
        ...


def engine_command(python: str | None = None) -> list[str]:
    """The command of the engine process, for this interpreter or another one."""
    return [python or sys.executable, "-m", "SAMAutoSegLib.engine"]


def engine_environment() -> dict[str, str]:
    """The variables that let another interpreter find this library, however it was started."""
    library = str(Path(__file__).parents[2])
    paths = [library, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"}
