"""The engine's process through Qt: Slicer's event loop keeps Python's threads standing still."""

from collections import deque

import qt

from SAMAutoSegLib.engine.protocol import LONGEST_LINE
from SAMAutoSegLib.engine.transport import engine_command, engine_environment
from SAMAutoSegPanels.SlicerPython import pythonExecutable

_STDERR_LINES = 40


class QProcessTransport:
    """See `SAMAutoSegLib.engine.transport.Transport`; also runs other commands that print lines.

    Args:
        command: by default that of the engine.
    """

    def __init__(self, command=None):
        self.command = list(command or engine_command(pythonExecutable()))
        self.on_line = lambda line: None
        self.on_finished = lambda code, tail: None
        self._process = None
        self._rest = b""
        self._tail = deque(maxlen=_STDERR_LINES)

    @property
    def running(self):
        return self._process is not None and self._process.state() != qt.QProcess.NotRunning

    def start(self):
        process = qt.QProcess()
        environment = qt.QProcessEnvironment.systemEnvironment()
        for name, value in engine_environment().items():
            environment.insert(name, value)
        process.setProcessEnvironment(environment)
        process.connect("readyReadStandardOutput()", self._onOutput)
        process.connect("readyReadStandardError()", self._onErrorOutput)
        process.connect("finished(int,QProcess::ExitStatus)", self._onFinished)
        process.connect("errorOccurred(QProcess::ProcessError)", self._onProcessError)
        self._process = process
        process.start(self.command[0], self.command[1:])

    def write(self, line):
        if self.running:
            self._process.write((line + "\n").encode())

    def stop(self, seconds):
        process = self._letGo()
        if process is None:
            return
        process.closeWriteChannel()
        if not process.waitForFinished(int(1000 * seconds)):
            process.kill()
            process.waitForFinished(1000)

    def kill(self):
        process = self._letGo()
        if process is not None:
            process.kill()
            process.waitForFinished(1000)

    def _letGo(self):
        """Forget the process, so that nothing it still says is heard."""
        process, self._process = self._process, None
        if process is not None:
            process.blockSignals(True)
        return process

    def _onOutput(self):
        if self._process is None:
            return
        self._rest += self._process.readAllStandardOutput().data()
        *lines, self._rest = self._rest.split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            self._rest = b""
        for line in lines:
            self.on_line(line.decode("utf-8", "replace").rstrip("\r"))

    def _onErrorOutput(self):
        if self._process is not None:
            text = self._process.readAllStandardError().data().decode("utf-8", "replace")
            self._tail.extend(line for line in text.splitlines() if line.strip())

    def _onFinished(self, code, status):
        if self._process is None:
            return
        self._onOutput()
        self._onErrorOutput()
        self._process = None
        crashed = status == qt.QProcess.CrashExit
        self.on_finished(-abs(code) if crashed else code, "\n".join(self._tail))

    def _onProcessError(self, error):
        # Other errors come with `finished`. On Windows this one comes from within `start`.
        if error == qt.QProcess.FailedToStart:
            qt.QTimer.singleShot(0, self._onFailedToStart)

    def _onFailedToStart(self):
        if self._process is None:
            return
        reason = self._process.errorString()
        self._process = None
        self.on_finished(-1, f"{self.command[0]}: {reason}")
