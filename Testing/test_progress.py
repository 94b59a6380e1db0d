import io
import os
import re
import signal
import sys
import threading

import pytest

from SAMAutoSegLib import progress
from SAMAutoSegLib.errors import Cancelled
from SAMAutoSegLib.progress import console_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 6.0, 6.0, 7.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    console = io.StringIO()
    with console_progress(console) as tell:
        tell(0.1, "one")
        tell(0.25, "two")
        tell(0.9, "three")
    assert console.getvalue() == " 25% two\n"


def test_a_terminal_gets_a_bar_that_starts_anew_for_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    console = Terminal()
    with console_progress(console) as tell:
        for seconds, fraction, step in (
            (30.0, 0.5, "encoding"),
            (60.0, 1.0, "encoding"),
            (60.0, 0.0, "training"),
            (62.0, 0.25, "training"),
        ):
            now = seconds
            tell(fraction, step)
    drawn = [re.sub(r"\|.*\|", "", line).strip() for line in console.getvalue().split("\r")]
    shown = [line.partition("<")[0] for line in drawn]
    assert "encoding  50% 00:30" in shown and "encoding 100% 01:00" in shown
    assert [line for line in shown if "training" in line] == [
        "training   0% 00:00",
        "training  25% 00:02",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal to this process")
def test_the_first_interrupt_cancels_at_the_next_call_and_the_second_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with console_progress(io.StringIO()) as tell:
        tell(0.1, "one")
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Cancelled):
            tell(0.2, "two")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_progress_works_in_a_thread_that_may_not_handle_signals() -> None:
    done: list[bool] = []

    def work() -> None:
        with console_progress(io.StringIO()) as tell:
            tell(1.0, "done")
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
