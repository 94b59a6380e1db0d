"""Progress of long steps: one callback type, told to a console or to nobody."""

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TextIO

from SAMAutoSegLib.errors import Cancelled

Progress = Callable[[float, str], None]
"""Called with the fraction done (0 to 1) and one line of text; raises Cancelled to stop."""

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_DRAWINGS = 0.1
_LEAST_JSON_STEP = 0.005


def silent(fraction: float, message: str) -> None:
    """Progress that tells nobody."""


def part_of(progress: Progress, start: float, stop: float) -> Progress:
    """Progress of one step of several: its 0 to 1 is `start` to `stop` of the whole."""

    def part(fraction: float, message: str) -> None:
        progress(start + fraction * (stop - start), message)

    return part


def parts_of(progress: Progress, stop: float, sizes: Sequence[int]) -> list[Progress]:
    """Progress of steps one after the other that take as long as their sizes say, up to `stop`."""
    whole = sum(sizes) or 1
    bounds = [stop * sum(sizes[:n]) / whole for n in range(len(sizes) + 1)]
    return [part_of(progress, *pair) for pair in pairwise(bounds)]


@contextmanager
def remembered_interrupts() -> Iterator[threading.Event]:
    """Ctrl-C raises KeyboardInterrupt, as without this, and is remembered by the event.

    Modules that are being imported may make another error of it, or swallow it: then the next
    `console_progress` raises it again.
    """
    seen = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield seen  # only the main thread may handle signals
        return

    def on_interrupt(_number: int, _frame: object) -> None:
        seen.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_interrupt)
    _remembered.append(seen)
    try:
        yield seen
    finally:
        _remembered.pop()
        signal.signal(signal.SIGINT, before)


_remembered: list[threading.Event] = []


@contextmanager
def console_progress(stream: TextIO | None = None) -> Iterator[Progress]:
    """Show progress on a console (standard error by default).

    A terminal gets a bar; anything else gets at most one line in five seconds. The first
    Ctrl-C makes the next progress call raise Cancelled, so that a long step stops where its
    result so far can be kept; a second Ctrl-C interrupts at once.
    """
    console = sys.stderr if stream is None else stream
    show, close = _bar(console) if console.isatty() else _lines(console)
    with _interrupt_as_request(console) as requested:

        def progress(fraction: float, message: str) -> None:
            if requested.is_set():
                raise Cancelled("stopped before there was a result to keep")
            show(min(max(fraction, 0.0), 1.0), message)

        try:
            yield progress
        finally:
            close()


@contextmanager
def console_or_json_progress(as_json: bool) -> Iterator[Progress]:
    """`console_progress`, or lines of JSON on standard output for a program that reads them."""
    if not as_json:
        with console_progress() as progress:
            yield progress
        return
    last = -1.0

    def told(fraction: float, message: str) -> None:
        nonlocal last
        if fraction - last >= _LEAST_JSON_STEP or fraction < last:
            last = fraction
            print(json.dumps({"fraction": fraction, "message": message}), flush=True)

    yield told


def _bar(console: TextIO) -> tuple[Progress, Callable[[], None]]:
    from tqdm import tqdm

    layout = "{desc} {percentage:3.0f}%|{bar:30}| {elapsed}<{remaining}"
    bar = tqdm(total=1.0, file=console, leave=False, bar_format=layout, dynamic_ncols=True)

    last = 0.0

    def show(fraction: float, message: str) -> None:
        nonlocal last
        now = time.monotonic()
        if fraction < bar.n:  # the next step of several begins
            bar.reset()
        elif now - last < _SECONDS_BETWEEN_DRAWINGS and fraction < 1.0:
            return
        last = now
        bar.n = fraction
        bar.set_description_str(message)

    return show, bar.close


def _lines(console: TextIO) -> tuple[Progress, Callable[[], None]]:
    last = time.monotonic()

    def show(fraction: float, message: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{fraction:4.0%} {message}", file=console, flush=True)

    return show, lambda: None


@contextmanager
def _interrupt_as_request(console: TextIO) -> Iterator[threading.Event]:
    if any(seen.is_set() for seen in _remembered):
        raise KeyboardInterrupt
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested  # only the main thread may handle signals
        return

    def on_interrupt(_number: int, _frame: object) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()
        print("\nstopping at the next safe point (Ctrl-C again: at once)", file=console)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield requested
    finally:
        signal.signal(signal.SIGINT, before)
