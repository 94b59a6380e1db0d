import io
import os
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


def test_a_terminal_gets_a_bar_that_starts_anew_for_the_next_step() -> None:
    console = Terminal()
    with console_progress(console) as tell:
        tell(0.5, "encoding")
        tell(1.0, "encoding")
        tell(0.0, "training")
        tell(0.25, "training")
    assert "encoding" in console.getvalue()
    assert "training" in console.getvalue()


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
