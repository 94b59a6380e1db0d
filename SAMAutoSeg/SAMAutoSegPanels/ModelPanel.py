"""The models on this computer: choose, load, download, look at, remove, go back."""

import qt
import slicer

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegPanels.Translation import _
from SAMAutoSegPanels.Wording import sizeWords

# The model to begin with in a new scene.
_LAST_USED = "SAMAutoSeg/LastModel"


class ModelPanel:
    """Shows the library; everything slow runs in a process of its own."""

    def __init__(self, ui, session):
        self._ui = ui
        self._session = session
        self._shown = None
        self._message = ""
        self.confirm = slicer.util.confirmOkCancelDisplay
        self.chooseFile = qt.QFileDialog.getOpenFileName
        self.chooseFolder = qt.QFileDialog.getExistingDirectory

        self._downloadMenu = qt.QMenu(ui.downloadModelButton)
        self._downloadMenu.connect("aboutToShow()", self._fillDownloadMenu)
        ui.downloadModelButton.setMenu(self._downloadMenu)
        self._modelMenu = qt.QMenu(ui.modelMenuButton)
        self._modelMenu.connect("aboutToShow()", self._fillModelMenu)
        ui.modelMenuButton.setMenu(self._modelMenu)
        ui.modelSelector.connect("activated(int)", self._onActivated)
        ui.loadModelButton.connect("clicked()", self.onLoad)
        ui.cancelDownloadButton.connect("clicked()", self._onCancel)
        session.commands.onProgress = self._onProgress
        session.changed.connect(self.refresh)

    def refresh(self):
        ui, session = self._ui, self._session
        if session.parameterNode is None:
            return
        entries = session.library.models()
        chosen = session.model
        if chosen is None and not session.parameterNode.model:
            first = session.library.suggested(qt.QSettings().value(_LAST_USED, ""))
            if first is not None:
                session.chooseModel(first)
                return
        if chosen is not None and chosen.path not in [entry.path for entry in entries]:
            entries.append(chosen)  # an earlier version, as a scene may ask for
        shown = [(entry.path, entry.title) for entry in entries], session.parameterNode.model
        if shown != self._shown:
            self._shown = shown
            if chosen is not None:
                qt.QSettings().setValue(_LAST_USED, chosen.path.name)
            blocked = ui.modelSelector.blockSignals(True)
            ui.modelSelector.clear()
            for entry in entries:
                ui.modelSelector.addItem(entry.title, entry.path.name)
            index = -1
            if chosen is not None:
                index = [entry.path for entry in entries].index(chosen.path)
            ui.modelSelector.setCurrentIndex(index)
            ui.modelSelector.blockSignals(blocked)
        ui.modelSelector.enabled = bool(entries)
        ui.modelSummaryLabel.text = self._summary(chosen, entries)
        ui.modelMessageLabel.text = self._message
        ui.modelMessageLabel.visible = bool(self._message)
        free = not session.commands.running
        ui.loadModelButton.enabled = ui.downloadModelButton.enabled = free and session.ready

    def _summary(self, chosen, entries):
        if chosen is not None:
            return chosen.summary
        if self._session.modelProblem:
            return self._session.modelProblem
        if entries:
            return _(
                "Select a model that was made for such images, or download LiteMedSAM, which learns"
                " from a few slices that you draw."
            )
        return _("No model yet. Download LiteMedSAM to begin: it is small and fast.")

    def select(self, entry):
        self._message = ""
        qt.QSettings().setValue(_LAST_USED, entry.path.name)
        self._session.chooseModel(entry)

    def _onActivated(self, index):
        self.select(self._session.library.find(self._ui.modelSelector.itemData(index)))

    def _fillDownloadMenu(self):
        menu, library = self._downloadMenu, self._session.library
        menu.clear()
        offers = library.offers()
        for entry, words in offers:
            menu.addAction(words).connect("triggered()", lambda e=entry: self.download(e))
        if not offers:
            menu.addAction(_("All models of the catalog are here")).enabled = False
            return
        menu.addSeparator()
        offline = menu.addMenu(_("From a folder, without internet"))
        for entry, words in offers:
            offline.addAction(words).connect("triggered()", lambda e=entry: self._onFromFolder(e))

    def _onFromFolder(self, entry):
        title = _("Folder that holds {file} or its package").format(file=entry["file_name"])
        folder = self.chooseFolder(slicer.util.mainWindow(), title)
        if folder:
            self.download(entry, folder)

    def download(self, entry, folder=None):
        """Bring a model of the catalogue, and choose it."""

        def onDone(failure):
            self._message = failure
            found = self._session.library.find(entry["file_name"])
            if found is not None and not failure:
                self.select(found)
            self._session.changed.emit()

        self._message = ""
        self._session.commands.fetch(entry, onDone, folder)
        self._session.changed.emit()

    def onLoad(self):
        kinds = _("Models (*.safetensors *.pth *.pt);;All files (*)")
        path = self.chooseFile(slicer.util.mainWindow(), _("Load weights file"), "", kinds)
        if path:
            self.load(path)

    def load(self, path):
        """Copy a weights file to the user's models, and choose it."""

        def onDone(failure, about):
            self._message = failure
            if not failure:
                self.select(
                    self._session.library.find(about["path"].replace("\\", "/").split("/")[-1])
                )
            self._session.changed.emit()

        self._message = ""
        self._session.commands.add(path, onDone)
        self._session.changed.emit()

    def _onCancel(self):
        self._session.commands.cancel()
        self._session.changed.emit()

    def _onProgress(self, fraction, message):
        ui = self._ui
        ui.downloadRow.visible = fraction is not None
        if fraction is not None:
            ui.downloadProgressBar.value = int(100 * fraction)
            ui.downloadProgressBar.setFormat(f"{message} %p%".strip())

    def _fillModelMenu(self):
        menu, session = self._modelMenu, self._session
        entry = session.model
        menu.clear()
        details = menu.addAction(_("Details..."))
        details.enabled = entry is not None
        details.connect("triggered()", self.showDetails)
        earlier = session.library.versions(entry)[1:] if entry is not None else []
        versions = menu.addMenu(_("Earlier versions"))
        versions.enabled = bool(earlier)
        for old in earlier:
            words = f"{old.title} \N{MIDDLE DOT} {old.created}"
            if old.score is not None:
                words += f" \N{MIDDLE DOT} Dice {old.score:.2f}"
            one = versions.addMenu(words)
            one.addAction(_("Use")).connect("triggered()", lambda e=old: self.select(e))
            one.addAction(_("Make it the newest version")).connect(
                "triggered()", lambda e=old: self.restore(e)
            )
        menu.addAction(_("Open folder")).connect("triggered()", self.openFolder)
        menu.addSeparator()
        remove = menu.addAction(_("Remove..."))
        remove.enabled = entry is not None and entry.writable
        remove.connect("triggered()", self.onRemove)

    def showDetails(self):
        slicer.util.infoDisplay(
            detailsText(self._session.model), windowTitle=self._session.model.title
        )

    def openFolder(self):
        folder = self._session.library.folder
        folder.mkdir(parents=True, exist_ok=True)
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(folder)))

    def restore(self, entry):
        self._tryTo(lambda: self.select(self._session.library.restore(entry)))

    def onRemove(self):
        entry = self._session.model
        size = sizeWords(entry.path.stat().st_size) if entry.path.is_file() else ""
        question = _("Delete {name} ({size}) from this computer?").format(
            name=entry.title, size=size
        )
        if self.confirm(question, windowTitle=_("Remove model")):
            self._tryTo(lambda: self._remove(entry))

    def _remove(self, entry):
        self._session.library.remove(entry)
        self._session.chooseModel(None)

    def _tryTo(self, do):
        self._message = ""
        try:
            do()
        except SAMAutoSegError as error:
            self._message = str(error)
        self._session.changed.emit()


def detailsText(entry):
    """Everything known of a model, a line each."""
    lines = [
        (_("Segments"), ", ".join(entry.structures) or _("nothing by itself")),
        (_("Learned on"), entry.backbone),
        (_("Method"), entry.method),
        (_("Slices"), entry.plane),
        (_("Trained"), entry.created),
        (_("Training slices"), entry.slices or ""),
        (_("Dice on held-out slices"), "" if entry.score is None else f"{entry.score:.3f}"),
        (_("Made for"), entry.use),
        (_("Not for"), entry.notFor),
        (_("Data"), entry.data),
        (_("License"), entry.license),
        (_("File"), entry.path),
    ]
    return "\n".join(f"{name}: {value}" for name, value in lines if value != "")
