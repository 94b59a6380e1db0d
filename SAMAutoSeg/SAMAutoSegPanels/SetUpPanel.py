"""The line on top: what is missing and the button that brings it, or where it computes."""

import platform
import sys

import qt
import slicer

from SAMAutoSegLib import __version__
from SAMAutoSegPanels import SetUpState
from SAMAutoSegPanels.SetUpState import SetUpFacts
from SAMAutoSegPanels.Translation import _

_AGREED = "SAMAutoSeg/SetUpAgreed"

_ICONS = {
    "ready": qt.QStyle.SP_DialogApplyButton,
    "waiting": qt.QStyle.SP_BrowserReload,
    "missing": qt.QStyle.SP_MessageBoxInformation,
    "failed": qt.QStyle.SP_MessageBoxWarning,
}


class SetUpPanel:
    """Looks, asks once, installs one step after the other."""

    def __init__(self, ui, session):
        self._ui = ui
        self._session = session
        self._busyWith = ""
        self._failure = ""
        self._level = None
        self.confirm = slicer.util.confirmOkCancelDisplay

        menu = qt.QMenu(ui.setUpMenuButton)
        menu.addAction(_("Copy report")).connect("triggered()", self.copyReport)
        menu.addAction(_("Restart the engine")).connect("triggered()", self.restartEngine)
        menu.addAction(_("Look again")).connect("triggered()", self.look)
        ui.setUpMenuButton.setMenu(menu)
        ui.setUpButton.connect("clicked()", self.onButton)
        session.changed.connect(self.refresh)

    @property
    def facts(self):
        session = self._session
        found, seconds = session.found, session.secondsForVolume
        return SetUpFacts(
            **found,
            hasWeights=session.library.hasDefaultBackbone(),
            weightsBytes=session.library.defaultBackbone["bytes"],
            busyWith=self._busyWith,
            failure=self._failure,
            engineState=session.client.state,
            engineMessage=session.engineMessage,
            devices=tuple(session.devices),
            chosenDevice=session.chosenDevice,
            secondsForVolume=None if seconds is None else seconds * session.shareOfSlices,
        )

    def look(self):
        """Find out anew what is installed; takes milliseconds."""
        dependencies = self._session.dependencies
        self._session.found = {
            "hasExtension": dependencies.hasExtension(),
            "hasTorch": dependencies.hasTorch(),
            "torchCannotBe": dependencies.torchCannotBe(),
            "missingPackages": dependencies.missingPackages(),
            "restartPending": dependencies.restartPending(),
        }
        self._session.ready = SetUpState.isReady(self.facts)
        self._session.changed.emit()

    def refresh(self):
        ui = self._ui
        if not self._session.found:
            return  # nobody has looked yet
        view = SetUpState.setUpView(self.facts)
        ui.setUpLabel.text = view.text
        ui.setUpLabel.toolTip = view.toolTip
        ui.setUpButton.visible = bool(view.button)
        ui.setUpButton.text = view.button
        ui.setUpButton.toolTip = view.toolTip
        if view.level != self._level:
            self._level = view.level
            icon = slicer.app.style().standardIcon(_ICONS[view.level])
            ui.setUpIconLabel.setPixmap(icon.pixmap(16, 16))

    def onButton(self):
        self._failure = ""
        facts = self.facts
        steps = SetUpState.stepsLeft(facts)
        if not steps:
            self.restartEngine()
        elif steps == [SetUpState.RESTART]:
            question = _("Slicer restarts now. Save first what you want to keep. Restart?")
            if self.confirm(question, windowTitle="SAMAutoSeg"):
                slicer.util.restart()
        elif self._agreed() or self.confirm(
            SetUpState.question(facts), windowTitle=_("Set up SAMAutoSeg")
        ):
            qt.QSettings().setValue(_AGREED, True)
            self._next()

    def _agreed(self):
        return slicer.util.settingsValue(_AGREED, False, converter=slicer.util.toBool)

    def _next(self):
        """Do the next step and come back when it is done."""
        self._busyWith = ""
        self.look()
        steps = [s for s in SetUpState.stepsLeft(self.facts) if s != SetUpState.RESTART]
        if not steps or self.facts.restartPending:
            qt.QSettings().setValue(_AGREED, self.facts.restartPending)
            self._session.startEngine()
            return
        self._busyWith = steps[0]
        self._session.changed.emit()
        if steps[0] == SetUpState.WEIGHTS:
            self._session.commands.fetch(self._session.library.defaultBackbone, self._onFetched)
        else:
            # Later, so that the line is drawn before the interface has to wait for the extension.
            self._session.later(lambda: self._install(steps[0]))

    def _install(self, step):
        def onDone(failure):
            self._onInstalled(step, failure)

        self._session.dependencies.install(step, onDone)

    def _onInstalled(self, step, failure):
        if failure:
            self._fail(failure)
            return
        self._busyWith = ""
        self.look()
        if step in SetUpState.stepsLeft(self.facts):
            self._fail(_("The installation did not take effect: restart Slicer and try again."))
            return
        self._next()

    def _onFetched(self, failure):
        if failure:
            self._fail(failure)
        else:
            self._next()

    def _fail(self, message):
        self._busyWith, self._failure = "", message
        self.look()

    def restartEngine(self):
        self._failure = ""
        self._session.restartEngine()

    def report(self):
        """What a person who helps has to know; holds no names of patients or images."""
        facts = self.facts
        lines = [
            f"SAMAutoSeg {__version__}",
            f"Slicer {slicer.app.applicationVersion}, revision {slicer.app.revision}",
            f"{platform.platform()}, Python {sys.version.split()[0]}",
            f"status: {SetUpState.setUpView(facts).text}",
            f"PyTorch extension: {'yes' if facts.hasExtension else 'no'}",
            *self._session.dependencies.versions(),
            f"engine: {facts.engineState} {facts.engineMessage}".rstrip(),
            *(f"device: {d['name']} {d['words']}, free {d['free_bytes']}" for d in facts.devices),
            f"models: {', '.join(e.path.name for e in self._session.library.models()) or 'none'}",
            f"model folder: {self._session.library.folder}",
            *list(self._session.log)[-20:],
        ]
        return "\n".join(lines)

    def copyReport(self):
        slicer.app.clipboard().setText(self.report())
        slicer.util.showStatusMessage(_("The report is on the clipboard."), 3000)
