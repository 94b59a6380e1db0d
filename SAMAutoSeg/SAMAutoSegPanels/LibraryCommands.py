"""Downloads and copies, each in a process of its own."""

import json

from SAMAutoSegPanels.SlicerPython import pythonExecutable
from SAMAutoSegPanels.Translation import _

# Slicer's Python is started by a launcher, and killing that leaves it running. So it ends itself
# when nobody holds the other end of its standard input any more: as by Ctrl-C, so that what it has
# started ends too; whoever starts it may ignore that signal. That input is no longer the standard
# one, see `SAMAutoSegLib.engine.__main__`.
_UNTIL_LET_GO = """
import _thread, os, runpy, signal, threading, time

signal.signal(signal.SIGINT, signal.default_int_handler)
own = os.dup(0)
nothing = os.open(os.devnull, os.O_RDONLY)
os.dup2(nothing, 0)

def end():
    while os.read(own, 1024):
        pass
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    else:
        _thread.interrupt_main()
    time.sleep(5)
    os._exit(1)

threading.Thread(target=end, daemon=True).start()
runpy.run_module("SAMAutoSegLib", run_name="__main__", alter_sys=True)
"""


class LibraryCommands:
    """Runs commands of ``samautoseg``, one at a time.

    Args:
        makeTransport: makes a transport for a command.

    Attributes:
        onProgress: told the fraction done and a line, None when nothing runs any more.
    """

    def __init__(self, makeTransport):
        self._makeTransport = makeTransport
        self._transport = None
        self._onDone = None
        self.onProgress = lambda fraction, message: None

    @property
    def running(self):
        return self._transport is not None

    def fetch(self, entry, onDone, folder=None):
        """Bring a model of the catalogue; ``onDone`` is told '' or why it failed.

        What was downloaded before a cancel or a failure is not downloaded again.
        """
        given = ["models", "fetch", entry["name"], "--json"]
        if folder is not None:
            given += ["--from-folder", str(folder)]
        self._run(given, lambda failure, result: onDone(failure))

    def add(self, path, onDone):
        """Copy a weights file; ``onDone`` is told '' or why it failed, and the reply."""
        self._run(["models", "add", str(path), "--json"], onDone)

    def fetchSample(self, name, onDone):
        """Bring a sample image; ``onDone`` is told '' or why it failed, and the reply."""
        self._run(["sample", name, "--json"], onDone)

    def cancel(self):
        """End what runs, and tell who waits for it."""
        if self.running:
            onDone = self._onDone
            self.stop()
            onDone(_("Cancelled. What has arrived is kept: the next try goes on from there."), {})

    def stop(self):
        """End what runs; nobody is told."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.kill()
            self.onProgress(None, "")

    def _run(self, given, onDone):
        if self.running:
            onDone(_("Another download or copy is under way: wait, or cancel it."), {})
            return
        lines = []
        command = [pythonExecutable(), "-u", "-c", _UNTIL_LET_GO, *given]
        transport = self._transport = self._makeTransport(command)
        self._onDone = onDone

        def onLine(line):
            try:
                told = json.loads(line)
            except ValueError:
                lines.append(line)
                return
            if isinstance(told, dict) and "fraction" in told:
                self.onProgress(told["fraction"], told["message"])
            else:
                lines.append(line)

        def onFinished(code, tail):
            self._transport = None
            self.onProgress(None, "")
            if code:
                last = (tail.splitlines() or [_("the command ended unexpectedly")])[-1]
                onDone(last.removeprefix("samautoseg: ").removeprefix("error: "), {})
                return
            onDone("", json.loads("\n".join(lines)))

        transport.on_line, transport.on_finished = onLine, onFinished
        self.onProgress(0.0, "")
        transport.start()
