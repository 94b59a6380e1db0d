"""From corrected slices to a better model: start, watch, stop, compare, keep or discard."""

import secrets
import time

import qt
import slicer

from SAMAutoSegLib.engine.jobs import job_command
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegPanels import RetrainState
from SAMAutoSegPanels.CurvePlot import CurvePlot
from SAMAutoSegPanels.MeantFor import requireOwn
from SAMAutoSegPanels.ModelLibrary import checkedName, suggestedName
from SAMAutoSegPanels.Options import Method
from SAMAutoSegPanels.RetrainJob import (
    WatchedJob,
    describeJob,
    makeJobInSteps,
    settingsOf,
    unfinishedBusiness,
)
from SAMAutoSegPanels.RetrainState import IDLE, STARTING, RetrainFacts, retrainView
from SAMAutoSegPanels.SlicerPython import pythonExecutable
from SAMAutoSegPanels.SlicesToLearn import SPARE_EVERY
from SAMAutoSegPanels.StatusLabel import showStatus
from SAMAutoSegPanels.StructureList import StructureList
from SAMAutoSegPanels.TrainingSlices import TrainingSlices
from SAMAutoSegPanels.Translation import _
from SAMAutoSegPanels.Wording import asSentence, durationWords, shortened

_POLL_MILLISECONDS = 500
_SECONDS_BETWEEN_PLOTS = 2.0

_ROW_HEIGHT = 22

# At a time, of looking through other volumes for what was corrected.
_MILLISECONDS_BETWEEN_LOOKS = 20
_SECONDS_PER_LOOK = 0.015

# Where no run has told yet how long a slice takes.
_SECONDS_PER_SLICE = 0.5


class RetrainPanel:
    """One training at a time is shown; its process does not depend on this panel.

    Args:
        ledgers: a `CurrentLedger`.
        jobsFolder: where trainings are kept until their model is kept or discarded.
    """

    def __init__(self, ui, session, ledgers, jobsFolder):
        self._ui = ui
        self._session = session
        self._ledgers = ledgers
        self._jobsFolder = jobsFolder
        self._starting = None
        self._startingName = ""
        self._message = ""
        self._failed = False
        self._refusedFor = None
        self._offered = None
        self._nameEdited = False
        self._structures = StructureList(ui, self.onStates)
        self._slices = TrainingSlices(ledgers)
        self._drawn = 0.0
        self.watched = None
        self.confirm = slicer.util.confirmOkCancelDisplay
        self._plot = CurvePlot(ui.plotFrame.layout())
        self._timer = qt.QTimer()
        self._timer.setInterval(_POLL_MILLISECONDS)
        self._timer.connect("timeout()", self._poll)
        self._lookTimer = qt.QTimer(ui.structuresList)  # ends with what it would read
        self._lookTimer.setSingleShot(True)
        self._lookTimer.setInterval(_MILLISECONDS_BETWEEN_LOOKS)
        self._lookTimer.connect("timeout()", self._lookAtOthers)
        self._slices.othersChanged.connect(self.onNodes)

        ui.retrainButton.connect("clicked()", self.onRetrainButton)
        ui.keepButton.connect("clicked()", self.keep)
        ui.discardButton.connect("clicked()", self.discard)
        ui.attachJobButton.connect("clicked()", self.attach)
        ui.forgetJobButton.connect("clicked()", self.forgetOffered)
        ui.modelNameEdit.connect("textEdited(QString)", self._onNameEdited)
        ui.scoresTable.setColumnCount(3)
        ui.scoresTable.setHorizontalHeaderLabels((_("Structure"), _("Before"), _("After")))
        ui.scoresTable.verticalHeader().visible = False
        ui.scoresTable.verticalHeader().setDefaultSectionSize(_ROW_HEIGHT)
        ui.scoresTable.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        session.changed.connect(self.refresh)

    # What is shown

    @property
    def segmentationNode(self):
        node = self._session.parameterNode
        return None if node is None else node.outputSegmentation

    def onStates(self):
        """The states of the slices, or what is to be learned, are known anew."""
        self._structures.show_(self.segmentationNode)
        # Where nothing is checked, all that was corrected waits for that.
        self._slices.look([segmentId for segmentId, _name in self.structures()] or None)
        self.onNodes()
        self.refresh()

    def onNodes(self):
        """There may be other volumes in the scene now."""
        self._lookTimer.start()

    def _lookAtOthers(self):
        """Look for what was corrected in them for a few milliseconds, or go on later."""
        node = self._session.parameterNode
        names = [name for _id, name in self.structures()]
        volume = None if node is None else node.inputVolume
        if self._slices.lookAtOthers(volume, names, _SECONDS_PER_LOOK):
            self.refresh()
        else:
            self._lookTimer.start()

    @property
    def _learnsFromOthers(self):
        """Rough paint adapts to the images of one scanner, so to the chosen one alone."""
        node = self._session.parameterNode
        return node is not None and node.learnFromOthers and node.method != Method.WE_SAM

    @property
    def facts(self):
        session, node = self._session, self._session.parameterNode
        job = IDLE
        if self._starting is not None:
            job = STARTING
        elif self.watched is not None:
            job = self.watched.state
        ledger = self._ledgers.ledger
        known = ledger is not None and ledger is self._slices.lookedAt
        return RetrainFacts(
            ready=session.ready,
            corrected=self._slices.corrected if known else (),
            reviewed=self._slices.reviewed if known else (),
            problem=self._ledgers.problem,
            learned=tuple(getattr(ledger, "learned", ())),
            heldOut=tuple(getattr(ledger, "heldOut", ())),
            others=self._slices.others if self._learnsFromOthers else (),
            structures=tuple(name for _id, name in self.structures()),
            roughly=node is not None and node.method == Method.WE_SAM,
            known=tuple(getattr(session.model, "structures", ())),
            knownBy=getattr(session.model, "method", ""),
            method="" if node is None else node.method.value,
            modelProblem=session.modelProblem or session.backboneProblem,
            holdOut=node is not None and node.holdOut,
            nameProblem=self._nameProblem(),
            job=job,
            fraction=0.0 if self.watched is None else self.watched.fraction,
            secondsLeft=None if self.watched is None else self.watched.secondsLeft,
            lastMessage=self._message,
            failed=self._failed,
        )

    def refresh(self):
        ui = self._ui
        self._structures.show_(self.segmentationNode)
        self._refreshName()
        self._forgetRefusal()
        facts = self.facts
        view = retrainView(facts)
        ui.retrainSummaryLabel.text = view.summary
        ui.retrainButton.text = view.button
        ui.retrainButton.enabled = view.enabled
        ui.retrainButton.toolTip = view.toolTip
        showStatus(ui.retrainStatusLabel, view.status, view.failed)
        ui.retrainProgressBar.visible = view.percent is not None
        if view.percent is not None:
            ui.retrainProgressBar.setMaximum(0 if view.percent < 0 else 100)
            ui.retrainProgressBar.setValue(max(view.percent, 0))
        ui.resultRow.visible = view.showResult
        ui.scoresTable.visible = view.showResult and bool(self.watched.rows)
        ui.retrainSettings.visible = view.canChange
        ui.budgetSelector.enabled = ui.holdOutCheckBox.enabled = not facts.roughly
        names = [shortened(other.name) for other in self._slices.others]
        ui.otherVolumesCheckBox.visible = bool(names) and not facts.roughly
        ui.otherVolumesCheckBox.text = _("Learn from {volumes} too").format(
            volumes=names[0]
            if len(names) == 1
            else _("{count} other volumes").format(count=len(names))
        )
        told = view.canChange and not facts.roughly
        ui.retrainEstimateLabel.text = self._estimate(facts) if told else ""
        ui.retrainEstimateLabel.visible = bool(ui.retrainEstimateLabel.text)
        ui.jobFrame.visible = self._offered is not None and self.watched is None
        if view.showResult:
            name = self.watched.name
            version = self._session.library.nextVersion(name)
            full = name if version == 1 else f"{name} v{version}"
            ui.keepButton.text = _("Keep as {name}").format(name=shortened(full))
            ui.keepButton.toolTip = _("Keep as {name}").format(name=full)

    def structures(self):
        """Segment id and name of the structures to learn."""
        return self._structures.checked()

    def _onNameEdited(self, text):
        self._nameEdited = bool(text.strip())
        self.refresh()

    def _refreshName(self):
        if not self._nameEdited:
            names = [name for _id, name in self.structures()]
            text = suggestedName(names, self._session.model) if names else ""
            if self._ui.modelNameEdit.text != text:
                self._ui.modelNameEdit.text = text

    def _nameProblem(self):
        try:
            checkedName(self._ui.modelNameEdit.text)
        except SAMAutoSegError as error:
            return str(error)
        return ""

    def _estimate(self, facts):
        session, ledger = self._session, self._ledgers.ledger
        usable = len({*facts.corrected, *facts.reviewed})
        if ledger is None or not usable or session.parameterNode is None:
            return ""
        perSlice = _SECONDS_PER_SLICE
        if session.secondsForVolume is not None:
            perSlice = session.secondsForVolume / len(ledger)
        onGpu = not (session.device or session.chosenDevice or "cpu").startswith("cpu")
        budget, method = session.parameterNode.budget.value, session.parameterNode.method
        labeled, unlabeled = usable, None
        if facts.others:
            labeled += sum(len(other.slices) for other in facts.others)
            unlabeled = len(ledger) + sum(other.count for other in facts.others) - labeled
        seconds = RetrainState.trainingSeconds(budget, method, labeled, perSlice, onGpu, unlabeled)
        return _("Takes {duration} on this computer.").format(duration=durationWords(seconds))

    # The course of a training

    def onRetrainButton(self):
        if self.watched is not None and self.watched.state == RetrainState.RUNNING:
            self.watched.stop()
            self._session.changed.emit()
        else:
            self.start()

    def start(self):
        """Write the job, a piece at a time, and start its process."""
        from SAMAutoSegScene.CorrectedSlices import readCorrectedSlices

        session, node, ledger = self._session, self._session.parameterNode, self._ledgers.ledger
        self._forgetMessage()
        try:
            name = checkedName(self._ui.modelNameEdit.text)
            if session.modelProblem:  # its file was deleted since the button was drawn
                raise SAMAutoSegError(session.modelProblem)
            requireOwn(node.outputSegmentation, node.inputVolume, self.confirm)
            settings = settingsOf(session, node, name, session.backboneFile(), session.device)
            corrected = readCorrectedSlices(
                node.outputSegmentation,
                node.inputVolume,
                ledger,
                [segmentId for segmentId, _name in self.structures()],
            )
        except SAMAutoSegError as error:
            self._fail(str(error))
            return
        folder = self._jobsFolder / secrets.token_hex(6)
        teaches = node.method == Method.BLO_SAM
        if node.method == Method.WE_SAM:
            volumes = self._slices.forPaint(folder.name, corrected)
        else:
            volumes = self._slices.forTraining(
                folder.name, corrected, node.holdOut, self._learnsFromOthers, teaches
            )
        if len(volumes) > 1 and teaches:
            settings["settings"] = {"spare_every": SPARE_EVERY}
        self._startingName = folder.name
        self._starting = makeJobInSteps(folder, volumes, settings)
        session.changed.emit()
        session.later(self._writeOn)

    def _writeOn(self):
        if self._starting is None:
            return
        try:
            next(self._starting)
        except StopIteration as end:
            self._starting = None
            self._launch(end.value)
        except SAMAutoSegError as error:
            self._dropStarting()
            self._fail(str(error))
        except Exception:
            self._dropStarting()
            self._fail(_("an unexpected error ended it, see the Python console"))
            raise
        else:
            self._session.later(self._writeOn)

    def _launch(self, job):
        try:
            job.start(job_command(pythonExecutable()))
        except SAMAutoSegError as error:
            self._remove(job)
            self._fail(str(error))
            return
        self._watch(job)

    def _watch(self, job):
        self.watched = WatchedJob(job)
        self._forgetMessage()
        self._timer.start()
        self._poll()

    def _poll(self):
        watched = self.watched
        if watched is None:
            self._timer.stop()
            return
        if watched.poll():
            now = time.monotonic()
            if watched.finished or now - self._drawn >= _SECONDS_BETWEEN_PLOTS:
                self._drawn = now
                self._ui.plotFrame.visible = bool(watched.curve.steps)
                if watched.curve.steps:
                    self._plot.show_(watched.curve)
        if watched.finished:
            self._timer.stop()
            self._message, self._failed = watched.message, watched.failed
            self._fillTable(watched.rows)
            if watched.state == IDLE:
                self._letGo(offer=watched.lost)
        self._session.changed.emit()

    def _letGo(self, offer=False, kept=False):
        """Show no training any more; one that can go on is offered."""
        job, self.watched = self.watched.job, None
        if offer:
            self._offer(job)
            return
        if kept:
            job.remove()
        else:
            self._remove(job)

    def _remove(self, job):
        """There will be no model of this training."""
        job.remove()
        self._slices.forget(job.folder.name, slicer.mrmlScene)

    def _fillTable(self, rows):
        table = self._ui.scoresTable
        table.setRowCount(len(rows))
        # Nothing to compare with where the model before was a plain SAM, or was never scored.
        table.setColumnHidden(1, all(score.before is None for score in rows))
        for row, score in enumerate(rows):
            texts = [score.name, _dice(score.before), _dice(score.after)]
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setFlags(qt.Qt.ItemIsEnabled)
                if column == 2 and score.change:
                    better = score.change == "better"
                    item.setText(f"{text} {'▲' if better else '▼'}")
                table.setItem(row, column, item)
        header = table.horizontalHeader().sizeHint.height()
        table.setFixedHeight(min(220, header + 4 + _ROW_HEIGHT * len(rows)))

    def keep(self):
        """Add the new model to the models, and choose it."""
        watched = self.watched
        try:
            entry = self._session.library.keep(watched.job.model_path, watched.name)
        except SAMAutoSegError as error:
            self._message, self._failed = str(error), True
            self._session.changed.emit()
            return
        self._endResult(_("{name} is now the chosen model.").format(name=entry.title), kept=True)
        self._session.chooseModel(entry)

    def discard(self):
        question = _("Delete the new model? What it learned is lost; your corrections stay.")
        if self.confirm(question, windowTitle="SAMAutoSeg"):
            self._endResult(_("The new model was discarded. Your corrections are still there."))

    def _endResult(self, message, kept=False):
        self._letGo(kept=kept)
        self._message, self._failed, self._nameEdited = message, False, False
        self._ui.plotFrame.visible = False
        self._session.changed.emit()

    def _fail(self, message):
        self._message, self._failed = asSentence(message), True
        self._refusedFor = self._chosen()
        self._session.changed.emit()

    def _chosen(self):
        node = self._session.parameterNode
        return None if node is None else (node.inputVolume, node.outputSegmentation)

    def _forgetRefusal(self):
        """Why a training was not started was said of another choice, if that has changed since."""
        if self._refusedFor is not None and self._refusedFor != self._chosen():
            self._forgetMessage()

    def _forgetMessage(self):
        self._message, self._failed, self._refusedFor = "", False, None

    # Trainings of earlier runs of Slicer

    def lookForJobs(self):
        """Offer the newest training that nobody has decided about; starts nothing."""
        if self.watched is not None or self._starting is not None:
            return
        jobs = unfinishedBusiness(self._jobsFolder)
        if jobs:
            self._offer(jobs[0])

    def _offer(self, job):
        self._offered = job
        self._ui.jobLabel.text = describeJob(job)
        self._ui.attachJobButton.text = _("Go on") if job.can_resume else _("Show")
        self._ui.retrainCollapsibleButton.collapsed = False
        self.refresh()

    def attach(self):
        job, self._offered = self._offered, None
        try:
            if job.can_resume:
                job.start(job_command(pythonExecutable()))
        except SAMAutoSegError as error:
            self._fail(str(error))
            return
        self._watch(job)

    def forgetOffered(self):
        job = self._offered
        if not self.confirm(
            _("Delete this training and what it learned?"), windowTitle="SAMAutoSeg"
        ):
            return
        try:
            if job.state in ("waiting", "running"):
                job.stop()
                self._ui.jobLabel.text = _("Stopping. Discard it again when it has ended.")
                return
            self._remove(job)
        except SAMAutoSegError as error:
            self._fail(str(error))
        self._offered = None
        self.refresh()

    # Life

    def onSceneStartClose(self):
        self._plot.forget()
        self._lookTimer.stop()
        self._dropStarting()
        self._slices.close()
        # What was of the scene that was; of a training that goes on it is still true.
        if self.watched is None:
            self._message, self._failed = "", False
        self._nameEdited = False
        self._structures.forget()

    def _dropStarting(self):
        """Give up a job that is still being written."""
        if self._starting is not None:
            self._starting.close()
            self._starting = None
            self._slices.forget(self._startingName, slicer.mrmlScene)

    def cleanup(self):
        """The training goes on in its process; it is offered the next time."""
        self._timer.stop()
        self._lookTimer.stop()
        self._dropStarting()
        self._slices.close()
        self._plot.cleanup()


def _dice(value):
    return "-" if value is None else f"{value:.2f}"
