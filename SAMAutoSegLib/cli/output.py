"""Standard output that says in one line why it cannot be written."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from SAMAutoSegLib.errors import SAMAutoSegError


@contextlib.contextmanager
def told_output() -> Iterator[None]:
    """Within, a failure to write to standard output is a `SAMAutoSegError`, a broken pipe aside."""
    stream = cast(TextIO, _Output(sys.stdout))
    with contextlib.redirect_stdout(stream):
        try:
            yield
        finally:
            stream.flush()


def give_up_output() -> None:
    """What is still in the buffer must not fail once more when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_closed_streams() -> None:
    """Whoever started this may have closed its output: it goes nowhere then."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))


class _Output:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._errors_told():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._errors_told():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _errors_told(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            give_up_output()
            raise SAMAutoSegError(f"cannot write to standard output: {error.strerror}") from error
