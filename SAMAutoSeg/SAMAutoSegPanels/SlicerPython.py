"""The Python that processes beside Slicer run in."""

import shutil
import sys

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegPanels.Translation import _


def pythonExecutable():
    """Slicer's Python for other processes; in a plain interpreter that interpreter.

    Raises:
        SAMAutoSegError: the installation of Slicer lacks it.
    """
    found = shutil.which("PythonSlicer") or sys.executable
    if not found:
        raise SAMAutoSegError(_("PythonSlicer is missing: install Slicer again."))
    return found
