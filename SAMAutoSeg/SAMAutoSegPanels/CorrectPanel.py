"""The strip of slices, and below it the Segment Editor with clicks and boxes of the model."""

import qt
import slicer
import vtk
from SAMAutoSegScene.SliceState import SliceState

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegPanels.ClickPanel import ClickPanel
from SAMAutoSegPanels.EmbeddedEditor import EmbeddedEditor
from SAMAutoSegPanels.EngineVolumes import volumeStamp
from SAMAutoSegPanels.SliceCells import nextToCheck
from SAMAutoSegPanels.SliceStrip import SliceStrip
from SAMAutoSegPanels.Translation import _

# Effects take keys of their own: with Draw, A ends the outline and X takes back a point. N and M
# are no effect's.
_KEYS_BESIDE_EFFECTS = "MN"

# At a time, of looking through the slices for what was corrected.
_SECONDS_PER_LOOK = 0.015


class CorrectPanel:
    """Shows the ledger's states, follows the views, and holds editor and clicks.

    Args:
        ledgers: a `CurrentLedger`.
        planeOf: the plane of the slices, as the Segment panel has it.

    Attributes:
        editor: an `EmbeddedEditor`.
        clicks: a `ClickPanel`.
    """

    def __init__(self, ui, session, ledgers, planeOf):
        self._ui = ui
        self._session = session
        self._ledgers = ledgers
        self._planeOf = planeOf
        self._entered = False
        self._shortcuts = {}
        self._observed = []
        self._current = None
        self._preparedFor = None
        self._shownPlane = None
        self._shownPlace = None
        self._shownSegmentation = None
        self._begunFor = None
        self._anyUnchecked = False
        self.editor = EmbeddedEditor(
            ui.editorFrame, lambda: (self.segmentationNode, self.volumeNode), self._onEffect
        )
        self.clicks = ClickPanel(ui, session, ledgers, self.editor)
        self.strip = SliceStrip(self.goTo)
        ui.sliceStripFrame.layout().addWidget(self.strip)

        # QTimer is kept: PythonQt stops one that nobody holds.
        self._lookTimer = _timer(20, self._look)
        self._viewTimer = _timer(60, self._onViewsChanged)
        self._prepareTimer = _timer(250, self._prepare)
        self._beginTimer = _timer(0, self._beginSegmentation)

        ui.correctCollapsibleButton.connect("contentsCollapsed(bool)", self._onCollapsed)
        ui.nextToCheckButton.connect("clicked()", self.nextToCheck)
        ui.markReviewedButton.connect("clicked()", self.markReviewed)
        ui.excludeSliceButton.connect("clicked(bool)", self.exclude)
        ui.leaveToModelButton.connect("clicked()", self.leaveToModel)
        # Kept: PythonQt would delete a menu that nobody holds.
        self._leaveMenu = qt.QMenu(ui.leaveToModelButton)
        self._leaveAll = self._leaveMenu.addAction(_("All slices that are not checked"))
        self._leaveAll.connect("triggered()", self.leaveUncheckedToModel)
        ui.leaveToModelButton.setMenu(self._leaveMenu)
        ledgers.changed.connect(self._lookTimer.start)
        session.changed.connect(self.refresh)

    # What is shown

    @property
    def segmentationNode(self):
        node = self._session.parameterNode
        return None if node is None else node.outputSegmentation

    @property
    def volumeNode(self):
        node = self._session.parameterNode
        return None if node is None else node.inputVolume

    def refresh(self):
        """Follow the choice of volume, segmentation and model."""
        try:
            plane = self._planeOf() if self.volumeNode is not None else None
        except SAMAutoSegError:
            plane = None
        if plane is None:
            self._ledgers.close()
        else:
            self._ledgers.choose(self.segmentationNode, self.volumeNode, plane)
        self._shownPlane = plane
        self._followPlace()
        self.editor.refresh()
        self._refreshButtons()
        if self.volumeNode is not self._begunFor or self._segmentationIsGone():
            self._begunFor = self.volumeNode
            self._beginTimer.start()

    def _followPlace(self):
        """Which slice is in view is asked anew where slices have other places or numbers now."""
        place = self._shownPlane, self._ledgers.of
        if place != self._shownPlace:
            self._shownPlace = place
            self._viewTimer.start()

    def _segmentationIsGone(self):
        """Whether it was removed. Who has chosen to have none wants a new one for the next run."""
        before, self._shownSegmentation = self._shownSegmentation, self.segmentationNode
        removed = before is not None and before.GetScene() is None
        return removed and self.segmentationNode is None

    def _beginSegmentation(self):
        """As in Slicer's Segment Editor: who opens it with a volume has one to add segments to."""
        if not (self._entered and self._isOpen) or self.volumeNode is None:
            return
        if self.segmentationNode is not None:
            return
        from SAMAutoSegScene.SegmentationOutput import prepareSegmentation, segmentationOf

        try:
            node = segmentationOf(self.volumeNode)
            node = node or prepareSegmentation(self.volumeNode, []).node
        except SAMAutoSegError:
            return  # a volume that cannot be read; the Segment section says why
        self._session.parameterNode.outputSegmentation = node
        self._session.changed.emit()

    @property
    def _isOpen(self):
        return not self._ui.correctCollapsibleButton.collapsed

    def _refreshButtons(self):
        ui, ledger, number = self._ui, self._ledgers.ledger, self._current
        inside = ledger is not None and number is not None and 0 <= number < len(ledger)
        state = ledger.stateOf(number) if inside else None
        ui.markReviewedButton.enabled = inside
        reviewed = state == SliceState.REVIEWED
        ui.markReviewedButton.text = _("Not reviewed") if reviewed else _("Mark reviewed")
        ui.excludeSliceButton.enabled = inside
        blocked = ui.excludeSliceButton.blockSignals(True)
        ui.excludeSliceButton.checked = state == SliceState.EXCLUDED
        ui.excludeSliceButton.blockSignals(blocked)
        ui.nextToCheckButton.enabled = ledger is not None
        ui.leaveToModelButton.visible = ledger is not None
        kept = inside and ledger.isProtected(number, ledger.layers.segmentIds())
        ui.leaveToModelButton.enabled = kept or self._anyUnchecked
        self._leaveAll.enabled = self._anyUnchecked
        text = self._stateText(state, number) if inside else self._ledgers.problem
        ui.sliceStateLabel.text = text
        ui.sliceStateLabel.visible = bool(text)
        self.clicks.refresh()

    def _stateText(self, state, number):
        words = {
            SliceState.UNTOUCHED: _("not segmented"),
            SliceState.MODEL: _("from the model"),
            SliceState.UNCHECKED: _("from a model, not checked"),
            SliceState.CORRECTED: _("corrected by you"),
            SliceState.REVIEWED: _("reviewed"),
            SliceState.EXCLUDED: _("excluded from training"),
        }
        return _("Slice {number}: {state}").format(number=number, state=words[state])

    def _look(self):
        """Go through the slices for a few milliseconds, then draw, or go on after others."""
        ledger = self._ledgers.ledger
        self._followPlace()
        self._anyUnchecked = False
        if ledger is None:
            instead = "" if self._ledgers.problem else _("No segmentation yet")
            self.strip.show_([], {}, None, instead)
            self._refreshButtons()
            self.onStates()
            return
        if not ledger.refresh(_SECONDS_PER_LOOK):
            self._lookTimer.start()
            return
        states = ledger.states()
        self._anyUnchecked = SliceState.UNCHECKED in states
        self.strip.show_(states, ledger.uncertainties(), self._current)
        self._refreshButtons()
        self.onStates()

    def onStates(self):
        """Set by the module: the states of the slices are known anew."""

    # Slices

    def nextToCheck(self):
        ledger = self._ledgers.ledger
        if ledger is None:
            return
        number = nextToCheck(ledger.states(), ledger.uncertainties(), self._current)
        if number is None:
            slicer.util.showStatusMessage(_("No slice is left to check."), 3000)
        elif number == self._current:
            slicer.util.showStatusMessage(_("This is the last slice to check."), 3000)
        else:
            self.goTo(number)

    def markReviewed(self):
        ledger, number = self._ledgers.ledger, self._numberInView()
        if number is not None:
            reviewed = ledger.stateOf(number) == SliceState.REVIEWED
            ledger.markReviewed([number], not reviewed)

    def exclude(self, excluded):
        number = self._numberInView()
        if number is not None:
            self._ledgers.ledger.exclude([number], excluded)

    def leaveToModel(self):
        number = self._numberInView()
        if number is not None:
            self._ledgers.ledger.leaveToModel([number])

    def leaveUncheckedToModel(self):
        ledger = self._ledgers.ledger
        if ledger is not None:
            ledger.leaveToModel(ledger.slicesIn(SliceState.UNCHECKED))

    def _numberInView(self):
        """Of the slice seen now, even if a timer is still to tell of it; None without a ledger."""
        self._onViewsChanged()
        return None if self._ledgers.ledger is None else self._current

    def goTo(self, number):
        """Show a slice in the views that show its plane; in all views if none does."""
        from SAMAutoSegScene.SliceGeometry import SliceGeometry

        ledger = self._ledgers.ledger
        if ledger is None:
            return
        geometry = SliceGeometry(self.volumeNode, ledger.plane)
        rows, columns = geometry.stack.slice_shape
        ras = geometry.rasFromPoint(number, rows / 2, columns / 2)
        nodes = [node for node, view in self._views() if view.plane == ledger.plane]
        for node in nodes or [node for node, view in self._views()]:
            node.JumpSliceByOffsetting(*map(float, ras))
        self._onViewsChanged()

    def _views(self):
        """Slice nodes that the layout shows, with what they show of the volume.

        Slicer keeps the views of other layouts, too.
        """
        from SAMAutoSegScene.SliceGeometry import viewedSlice

        if self.volumeNode is None or self.volumeNode.GetImageData() is None:
            return []
        shown = [node for node in _sliceNodes() if node.IsMappedInLayout()]
        return [(node, viewedSlice(node, self.volumeNode)) for node in shown]

    def _onViewsChanged(self):
        ledger = self._ledgers.ledger
        plane = self._shownPlane
        shown = [view.number for node, view in self._views() if view.plane == plane]
        self._current = shown[0] if shown else None
        if ledger is not None:
            self._lookTimer.start()
        self._refreshButtons()
        if self._entered and self._isOpen:
            self._prepareTimer.start()

    def _prepare(self):
        """Let the engine encode the slice in view and those around it, before a click comes."""
        backbone, session = self._session.clickFile(), self._session
        if not session.ready or backbone is None or self._current is None:
            return
        if self.volumeNode is None or session.client.state == "failed":
            return
        params = {
            "backbone": str(backbone),
            "axis": self._shownPlane,
            "slice": self._current,
            **session.loading,
        }
        # Another process, or other voxels: what was prepared is of no use any more.
        wanted = params, session.client.pid, self.volumeNode.GetID(), volumeStamp(self.volumeNode)
        if wanted == self._preparedFor or self._current < 0:
            return
        self._preparedFor = wanted

        def onVolume(key):
            asked = {**params, "volume": key}
            session.client.send("prepare_clicks", asked, on_error=lambda message, details: None)

        session.volumes.open(self.volumeNode, onVolume, lambda message: None)

    def _onCollapsed(self, collapsed):
        """Tools and keys whose buttons cannot be seen would surprise."""
        if collapsed:
            self.clicks.letGo()
            self.editor.exit()
        else:
            self.editor.ensure()
            if self._entered:
                self.editor.enter()
            self._prepareTimer.start()
            self._beginTimer.start()
        self._refreshShortcuts()

    # Life

    def enter(self):
        if self._entered:
            return
        self._entered = True
        self._observeViews()
        self._installShortcuts()
        if self._isOpen:
            self.editor.ensure()
            self.editor.enter()
        self._viewTimer.start()
        self._beginTimer.start()

    def exit(self):
        if not self._entered:
            return
        self._entered = False
        self.clicks.letGo()
        self._unobserveViews()
        for shortcut in self._shortcuts.values():
            shortcut.enabled = False
            shortcut.deleteLater()
        self._shortcuts = {}
        self.editor.exit()

    def onSceneStartClose(self):
        self.clicks.letGo()
        self._ledgers.close()
        self._preparedFor = self._begunFor = self._shownSegmentation = None
        self.editor.onSceneStartClose()

    def onSceneEndClose(self):
        self.editor.onSceneEndClose()

    def cleanup(self):
        self.exit()
        for timer in (self._lookTimer, self._viewTimer, self._prepareTimer, self._beginTimer):
            timer.stop()
        self._ledgers.changed.disconnectAll()
        self._ledgers.close()
        self._begunFor = self._shownSegmentation = None
        self.editor.cleanup()

    def onLayoutChanged(self):
        self.clicks.onLayoutChanged()
        if self._entered:
            self._unobserveViews()
            self._observeViews()
            self._viewTimer.start()

    def _observeViews(self):
        for node in _sliceNodes():
            tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._onSliceNode)
            self._observed.append((node, tag))

    def _unobserveViews(self):
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self._observed = []

    def _onSliceNode(self, caller, event):
        if not self._viewTimer.active:
            self._viewTimer.start()

    def _installShortcuts(self):
        window = slicer.util.mainWindow()
        if window is None:
            return
        ui = self._ui
        for key, button in (
            ("A", ui.addPointButton),
            ("S", ui.removePointButton),
            ("D", ui.boxButton),
            ("N", ui.nextToCheckButton),
            ("M", ui.markReviewedButton),
            ("X", ui.excludeSliceButton),
        ):
            shortcut = qt.QShortcut(qt.QKeySequence(key), window)
            shortcut.connect("activated()", button.click)
            self._shortcuts[key] = shortcut
        self._refreshShortcuts()

    def _refreshShortcuts(self):
        for key, shortcut in self._shortcuts.items():
            free = key in _KEYS_BESIDE_EFFECTS or not self.editor.hasEffect
            shortcut.enabled = self._isOpen and free

    def _onEffect(self, active):
        """Mouse and keys are for the effect, or for clicks and boxes, never for both."""
        if active:
            self.clicks.letGo()
        self._refreshShortcuts()


def _sliceNodes():
    manager = slicer.app.layoutManager()
    if manager is None:
        return []
    return [manager.sliceWidget(name).mrmlSliceNode() for name in manager.sliceViewNames()]


def _timer(milliseconds, do):
    timer = qt.QTimer()
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.connect("timeout()", do)
    return timer
