"""The sample images, fetched by the library in a process of its own and loaded."""

import qt
import slicer

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegPanels.LibraryCommands import LibraryCommands
from SAMAutoSegPanels.QProcessTransport import QProcessTransport
from SAMAutoSegPanels.Translation import _


def loadSample(name, nodeName, window, level):
    """A volume node of a sample of `Resources/SampleData.json`; None if the user cancelled.

    The module Sample Data waits for its node, so the interface is kept alive meanwhile.

    Raises:
        SAMAutoSegError: it could not be fetched; the line says why.
    """
    dialog = slicer.util.createProgressDialog(
        labelText=_("Fetching {name}...").format(name=nodeName),
        windowTitle="SAMAutoSeg",
        windowModality=qt.Qt.WindowModal,
    )
    commands = LibraryCommands(QProcessTransport)
    loop = qt.QEventLoop()
    ended = {}

    def onProgress(fraction, message):
        if fraction is not None:
            # Never the maximum: there the dialog would close by itself.
            dialog.value = min(int(100 * fraction), 99)

    def onDone(failure, reply):
        ended.update(failure=failure, reply=reply)
        loop.quit()

    commands.onProgress = onProgress
    dialog.connect("canceled()", commands.stop)
    dialog.connect("canceled()", loop.quit)
    commands.fetchSample(name, onDone)
    if not ended:
        loop.exec_()
    dialog.blockSignals(True)  # closing it counts as a cancel
    dialog.close()
    if not ended:
        return None
    if ended["failure"]:
        raise SAMAutoSegError(ended["failure"])
    node = slicer.util.loadVolume(ended["reply"]["image"], {"name": nodeName})
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevel(window, level)
    return node
