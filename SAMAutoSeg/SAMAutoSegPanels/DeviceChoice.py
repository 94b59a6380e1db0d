"""Where to compute: the devices that the engine has found, and the one that the user prefers."""

import qt
import slicer

from SAMAutoSegPanels.Translation import _

# Of this computer, so not in the scene.
_PREFERRED = "SAMAutoSeg/Device"


class DeviceChoice:
    """A list of devices; what is chosen is chosen the next time, too."""

    def __init__(self, ui, session):
        self._selector = ui.deviceSelector
        self._session = session
        self._shown = None
        ui.deviceSelector.connect("activated(int)", self._onActivated)
        session.changed.connect(self.refresh)

    def refresh(self):
        devices = [(d["name"], d["words"]) for d in self._session.devices]
        if devices == self._shown:
            return
        self._shown = devices
        # A device that is not there now, such as an external GPU, is taken again when it is.
        preferred = slicer.util.settingsValue(_PREFERRED, "")
        device = preferred if preferred in [name for name, _words in devices] else ""
        blocked = self._selector.blockSignals(True)
        self._selector.clear()
        self._selector.addItem(_("Automatic"), "")
        for name, words in devices:
            self._selector.addItem(words, name)
        self._selector.setCurrentIndex(max(self._selector.findData(device), 0))
        self._selector.blockSignals(blocked)
        if device != self._session.device:
            self._session.chooseDevice(device)

    def _onActivated(self, index):
        device = self._selector.itemData(index)
        qt.QSettings().setValue(_PREFERRED, device)
        self._session.chooseDevice(device)
