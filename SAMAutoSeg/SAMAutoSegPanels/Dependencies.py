"""What has to be installed, found and installed in one place."""

import importlib.util
import os
import platform
import sys
import tempfile
from collections import deque
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import qt
import slicer

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegPanels.SetUpState import EXTENSION, PACKAGES, TORCH
from SAMAutoSegPanels.Translation import _

_REQUESTER = "SAMAutoSeg"
_LEAST_TORCH = (2, 4)
_TORCH = f">={_LEAST_TORCH[0]}.{_LEAST_TORCH[1]}"

# Of what pip says, for the reason of a failure and for the status bar.
_PIP_LINES, _STATUS_LETTERS = 40, 120

# Set while a restart is due; a restart of Slicer that did not bring the extension clears it.
_PENDING = "SAMAutoSeg/RestartPendingInProcess"

# Slicer's own, or matched to the graphics card: an installation must never exchange them.
_KEPT = ("numpy", "scipy", "SimpleITK", "torch", "torchvision", "pydicom", "pillow", "requests")


class Dependencies:
    """The PyTorch extension, PyTorch, and the packages of ``Resources/requirements.txt``.

    Nothing is imported to look for it, and nothing is installed but by `install`.
    """

    def __init__(self, requirementsFile):
        self._requirementsFile = requirementsFile

    def hasExtension(self):
        return hasattr(slicer.modules, "pytorchutils")

    def hasTorch(self):
        """One that is recent enough; other extensions may have brought an older one."""
        return importlib.util.find_spec("torch") is not None and _isRecent(_versionOf("torch"))

    def torchCannotBe(self):
        """No PyTorch after 2.2 was made for Intel Macs, nor for a Slicer that is translated."""
        return sys.platform == "darwin" and platform.machine() == "x86_64"

    def missingPackages(self):
        """Requirements that are not met, as text."""
        from slicer.packaging import load_requirements, pip_check

        return tuple(
            str(requirement)
            for requirement in load_requirements(self._requirementsFile)
            if not pip_check(requirement)
        )

    def restartPending(self):
        """Whether the extension was installed and Slicer has not been restarted since."""
        pending = qt.QSettings().value(_PENDING, "")
        return not self.hasExtension() and pending == str(os.getpid())

    def install(self, step, onDone):
        """Do one step of the set-up; the user was asked before.

        ``onDone`` is told '' or why it failed and what to do. PyTorch takes minutes, and is
        installed while Slicer goes on.
        """
        try:
            if step == TORCH:
                self._installTorch(onDone)
                return
            {EXTENSION: self._installExtension, PACKAGES: self._installPackages}[step]()
        except SAMAutoSegError as error:
            onDone(str(error))
        except Exception as error:
            onDone(_failed(step, str(error).partition("\n")[0] or type(error).__name__))
        else:
            onDone("")

    def versions(self):
        """Lines of the report: every package with its version."""
        from slicer.packaging import load_requirements

        names = [r.name for r in load_requirements(self._requirementsFile)]
        lines = []
        for name in ("numpy", "SimpleITK", "torch", "torchvision", *names):
            try:
                lines.append(f"{name} {version(name)}")
            except PackageNotFoundError:
                lines.append(f"{name} not installed")
        return lines

    def _installExtension(self):
        model = slicer.app.extensionsManagerModel()
        wasInteractive = model.interactive
        model.interactive = False
        try:
            done = model.installExtensionFromServer("PyTorch", False)
        finally:
            model.interactive = wasInteractive
        if not done:
            raise SAMAutoSegError(
                _(
                    "The PyTorch extension could not be installed. Check the internet connection,"
                    " or install it in the Extensions Manager."
                )
            )
        qt.QSettings().setValue(_PENDING, str(os.getpid()))

    def _installTorch(self, onDone):
        import PyTorchUtils

        logic = PyTorchUtils.PyTorchUtilsLogic
        try:
            # What its `installTorch` does, which would stop the interface until pip has ended.
            arguments = logic._getPipInstallArguments(torchVersionRequirement=_TORCH)
            logic._installLightTheTorch()
        except AttributeError:
            done = logic().installTorch(askConfirmation=False, torchVersionRequirement=_TORCH)
            onDone("" if done is not None else _failed(TORCH, _("PyTorch was not installed")))
            return
        lines = deque(maxlen=_PIP_LINES)

        def onLine(line):
            print(line)
            lines.append(line)
            slicer.util.showStatusMessage(line.strip()[:_STATUS_LETTERS], 0)

        def onCompleted(code):
            slicer.util.showStatusMessage("")
            importlib.invalidate_caches()
            onDone(_failed(TORCH, _reasonIn(lines)) if code else "")

        slicer.util.executePythonModule(
            "light_the_torch",
            arguments,
            blocking=False,
            logCallback=onLine,
            completedCallback=onCompleted,
        )

    def _installPackages(self):
        from slicer.packaging import load_requirements, pip_ensure

        with tempfile.TemporaryDirectory() as folder:
            constraints = Path(folder) / "constraints.txt"
            constraints.write_text("\n".join(_installedOf(_KEPT)) + "\n", encoding="utf-8")
            pip_ensure(
                load_requirements(self._requirementsFile),
                constraints=constraints,
                prompt_install=False,
                requester=_REQUESTER,
            )


def _versionOf(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _isRecent(text):
    """Whether PyTorch of this version will do; one that does not tell its version is tried."""
    numbers = text.split(".")[:2]
    return not all(one.isdigit() for one in numbers) or tuple(map(int, numbers)) >= _LEAST_TORCH


def _failed(step, reason):
    what = {EXTENSION: _("the PyTorch extension"), TORCH: "PyTorch", PACKAGES: _("packages")}
    return _("Installing {what} failed ({reason}). Check the internet connection.").format(
        what=what[step], reason=reason
    )


def _reasonIn(lines):
    """The last line that pip calls an error, else the last one."""
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or list(lines) or [""])[-1].removeprefix("ERROR:").strip()


def _installedOf(names):
    """Constraints that keep these packages as they are."""
    for name in names:
        try:
            # Without the local part, such as +cu128, which no index knows.
            yield f"{name}=={version(name).split('+')[0]}"
        except PackageNotFoundError:
            continue
