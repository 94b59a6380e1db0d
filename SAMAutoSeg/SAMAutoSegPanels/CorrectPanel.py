"""The Segment Editor with clicks and boxes of the model, and the strip of slices above it."""

import qt
import slicer
import vtk

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.structure import structure_named
from SAMAutoSegPanels import SliceCells
from SAMAutoSegPanels.ClickSession import ClickSession
from SAMAutoSegPanels.ClickTools import BOX, POINT, ClickTools
from SAMAutoSegPanels.SliceStrip import SliceStrip
from SAMAutoSegPanels.Translation import _

EDITOR_TAG = "SAMAutoSegSegmentEditor"

_EFFECTS = (
    "Paint",
    "Draw",
    "Erase",
    "Level tracing",
    "Scissors",
    "Threshold",
    "Islands",
    "Smoothing",
    "Margin",
    "Logical operators",
    "Fill between slices",
)

# At a time, of looking through the slices for what was corrected.
_SECONDS_PER_LOOK = 0.015

# A view that is turned further than this shows no slice of the volume.
_MOST_DEGREES = 5.0


class CorrectPanel:
    """Shows the ledger's states and turns clicks into changes of the selected segment.

    Args:
        ledgers: a `CurrentLedger`.
        planeOf: the plane of the slices, as the Segment panel has it.
    """

    def __init__(self, ui, session, ledgers, planeOf):
        self._ui = ui
        self._session = session
        self._ledgers = ledgers
        self._planeOf = planeOf
        self._entered = False
        self._shortcuts = []
        self._observed = []
        self._clicks = ClickSession()
        self._opening = None
        self._current = None
        self._preparedFor = None
        self._shownPlane = None
        self.editor = None
        self.editorNode = None
        self.tools = ClickTools(self._onPoint, self._onBox)
        self.strip = SliceStrip(self.goTo)
        ui.sliceStripFrame.layout().addWidget(self.strip)

        # QTimer is kept: PythonQt stops one that nobody holds.
        self._lookTimer = _timer(20, self._look)
        self._viewTimer = _timer(60, self._onViewsChanged)
        self._prepareTimer = _timer(250, self._prepare)

        ui.correctCollapsibleButton.connect("contentsCollapsed(bool)", self._onCollapsed)
        ui.nextToCheckButton.connect("clicked()", self.nextToCheck)
        ui.markReviewedButton.connect("clicked()", self.markReviewed)
        ui.excludeSliceButton.connect("clicked(bool)", self.exclude)
        self._buttons = {
            ui.addPointButton: POINT,
            ui.removePointButton: POINT,
            ui.boxButton: BOX,
        }
        for button in self._buttons:
            button.connect("toggled(bool)", lambda on, b=button: self._onTool(b, on))
        ui.clearClicksButton.connect("clicked()", self.newObject)
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
        if plane != self._shownPlane:
            self._shownPlane = plane
            self._viewTimer.start()
        self._showNodesInEditor()
        self._refreshButtons()

    def _refreshButtons(self):
        ui, ledger, number = self._ui, self._ledgers.ledger, self._current
        inside = ledger is not None and number is not None and 0 <= number < len(ledger)
        state = str(ledger.stateOf(number)) if inside else ""
        ui.markReviewedButton.enabled = inside
        reviewed = state == SliceCells.REVIEWED
        ui.markReviewedButton.text = _("Not reviewed") if reviewed else _("Mark reviewed")
        ui.excludeSliceButton.enabled = inside
        blocked = ui.excludeSliceButton.blockSignals(True)
        ui.excludeSliceButton.checked = state == SliceCells.EXCLUDED
        ui.excludeSliceButton.blockSignals(blocked)
        ui.nextToCheckButton.enabled = ledger is not None
        ui.sliceStateLabel.text = self._stateText(state, number) if inside else ""
        ui.sliceStateLabel.visible = inside
        clickable = self._session.ready and self.volumeNode is not None
        for button in self._buttons:
            button.enabled = clickable
        ui.clearClicksButton.enabled = bool(self._clicks.points or self._clicks.box)

    def _stateText(self, state, number):
        words = {
            SliceCells.UNTOUCHED: _("not segmented"),
            SliceCells.MODEL: _("from the model"),
            SliceCells.CORRECTED: _("corrected by you"),
            SliceCells.REVIEWED: _("reviewed"),
            SliceCells.EXCLUDED: _("excluded from training"),
        }
        return _("Slice {number}: {state}").format(number=number, state=words[state])

    def _look(self):
        """Go through the slices for a few milliseconds, then draw, or go on after others."""
        ledger = self._ledgers.ledger
        if ledger is None:
            self.strip.show_([], {}, None)
            return
        if not ledger.refresh(_SECONDS_PER_LOOK):
            self._lookTimer.start()
            return
        numbers = range(len(ledger))
        doubts = {n: ledger.uncertaintyOf(n) for n in numbers}
        known = {n: value for n, value in doubts.items() if value is not None}
        self.strip.show_(ledger.states(), known, self._current)
        self._refreshButtons()
        self.onStates()

    def onStates(self):
        """Set by the module: the states of the slices are known anew."""

    # Slices

    def nextToCheck(self):
        ledger = self._ledgers.ledger
        if ledger is None:
            return
        states = [str(state) for state in ledger.states()]
        known = {n: ledger.uncertaintyOf(n) for n in range(len(states))}
        doubts = {n: value for n, value in known.items() if value is not None}
        number = SliceCells.nextToCheck(states, doubts, self._current)
        if number is None:
            slicer.util.showStatusMessage(_("Every slice was corrected or reviewed."), 3000)
        else:
            self.goTo(number)

    def markReviewed(self):
        ledger, number = self._ledgers.ledger, self._current
        if ledger is not None and number is not None:
            reviewed = str(ledger.stateOf(number)) == SliceCells.REVIEWED
            ledger.markReviewed([number], not reviewed)

    def exclude(self, excluded):
        ledger, number = self._ledgers.ledger, self._current
        if ledger is not None and number is not None:
            ledger.exclude([number], excluded)

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
        """Slice nodes of the layout with what they show of the volume."""
        from SAMAutoSegScene.SliceGeometry import viewedSlice

        if self.volumeNode is None or self.volumeNode.GetImageData() is None:
            return []
        return [(node, viewedSlice(node, self.volumeNode)) for node in _sliceNodes()]

    def _onViewsChanged(self):
        ledger = self._ledgers.ledger
        plane = self._shownPlane
        shown = [view.number for node, view in self._views() if view.plane == plane]
        self._current = shown[0] if shown else None
        if ledger is not None:
            self._lookTimer.start()
        self._refreshButtons()
        if self._entered and not self._ui.correctCollapsibleButton.collapsed:
            self._prepareTimer.start()

    def _prepare(self):
        """Let the engine encode the slice in view and those around it, before a click comes."""
        backbone, session = self._session.clickFile(), self._session
        if not session.ready or backbone is None or self._current is None:
            return
        if self.volumeNode is None or session.client.state == "failed":
            return
        wanted = (self.volumeNode.GetID(), str(backbone), self._shownPlane, self._current)
        if wanted == self._preparedFor or self._current < 0:
            return
        self._preparedFor = wanted
        __, backboneName, plane, number = wanted

        def onVolume(key):
            params = {"volume": key, "backbone": backboneName, "axis": plane, "slice": number}
            if session.device:
                params["device"] = session.device
            session.client.send("prepare_clicks", params, on_error=lambda message, details: None)

        session.volumes.open(self.volumeNode, onVolume, lambda message: None)

    # The editor

    def ensureEditor(self):
        """Make the editor when it is needed first: that takes longer than opening a module may."""
        if self.editor is not None:
            return
        self.editor = slicer.qMRMLSegmentEditorWidget()
        self.editor.setMaximumNumberOfUndoStates(10)
        self.selectEditorNode()
        self.editor.setMRMLScene(slicer.mrmlScene)
        self.editor.segmentationNodeSelectorVisible = False
        self.editor.sourceVolumeNodeSelectorVisible = False
        self.editor.switchToSegmentationsButtonVisible = False
        self.editor.unorderedEffectsVisible = False
        self.editor.setEffectNameOrder(_EFFECTS)
        self._ui.editorFrame.layout().addWidget(self.editor)
        self._showNodesInEditor()
        if self._entered:
            self._enterEditor()

    def selectEditorNode(self):
        """Have an editor node of our own in the scene; after a scene was closed, a new one."""
        if self.editor is None:
            return
        node = slicer.mrmlScene.GetSingletonNode(EDITOR_TAG, "vtkMRMLSegmentEditorNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
            node.UnRegister(None)
            node.SetSingletonTag(EDITOR_TAG)
            node = slicer.mrmlScene.AddNode(node)
        if node is not self.editorNode:
            self.editorNode = node
            self.editor.setMRMLSegmentEditorNode(node)

    def editorOf(self, segmentationNode):
        """The editor's node and its way to save a state for undo, if it shows this segmentation."""
        if self.editor is None or self.editor.segmentationNode() is not segmentationNode:
            return None, None
        return self.editorNode, self.editor.saveStateForUndo

    def _showNodesInEditor(self):
        if self.editor is None or self.editorNode is None:
            return
        segmentation, volume = self.segmentationNode, self.volumeNode
        if self.editor.segmentationNode() is not segmentation:
            self.editor.setSegmentationNode(segmentation)
        if segmentation is not None and self.editor.sourceVolumeNode() is not volume:
            self.editor.setSourceVolumeNode(volume)

    def _onCollapsed(self, collapsed):
        if not collapsed:
            self.ensureEditor()
            self._prepareTimer.start()

    # Clicks

    def newObject(self):
        self._clicks.clear()
        self._say("")
        self._refreshButtons()

    def _onTool(self, button, on):
        if on:
            self.ensureEditor()
            self.editor.setActiveEffect(None)
            for other in self._buttons:
                if other is not button:
                    other.checked = False
            self.tools.choose(self._buttons[button])
            self._say(self._hint(button))
        elif not any(other.checked for other in self._buttons):
            self.tools.choose("")
            self._say("")

    def _hint(self, button):
        backbone = self._session.backboneFile()
        if backbone is None:
            return _("Clicks need a SAM: download LiteMedSAM under Model.")
        if button is not self._ui.boxButton and backbone.name == "lite_medsam.pth":
            return _("LiteMedSAM was trained with boxes: a box is more exact than a point.")
        return ""

    def _say(self, message, isError=False):
        self._ui.clickStatusLabel.text = message
        self._ui.clickStatusLabel.visible = bool(message)

    def _onPoint(self, sliceNode, ras):
        sign = 1 if self._ui.addPointButton.checked else -1

        def prompt(layers, geometry, voxel, segmentId):
            from SAMAutoSegScene.SegmentLayers import SegmentsInBox
            from SAMAutoSegScene.SliceGeometry import boxOfSlice, sliceOfBox

            number, row, column = voxel
            inSlice = SegmentsInBox(layers, boxOfSlice(geometry.stack, number))
            mask = sliceOfBox(inSlice.mask(segmentId), geometry.stack)
            return self._clicks.point(row, column, sign, mask)

        self._click(sliceNode, [ras], prompt)

    def _onBox(self, sliceNode, one, other):
        def prompt(layers, geometry, voxel, segmentId):
            corners = [geometry.pointFromRAS(ras) for ras in (one, other)]
            rows, columns = geometry.stack.slice_shape
            (r0, c0), (r1, c1) = [
                (min(max(p.row, 0), rows - 1), min(max(p.column, 0), columns - 1)) for p in corners
            ]
            return self._clicks.boxed(r0, c0, r1, c1)

        center = [(a + b) / 2 for a, b in zip(one, other, strict=True)]
        self._click(sliceNode, [center], prompt)

    def _click(self, sliceNode, places, makePrompt):
        """Ask the engine about a click and write its answer; says why where that cannot be."""
        try:
            self._ask(sliceNode, places[0], makePrompt)
        except SAMAutoSegError as error:
            self._say(str(error)[:1].upper() + str(error)[1:], isError=True)

    def _ask(self, sliceNode, ras, makePrompt):
        from SAMAutoSegScene.SegmentLayers import SegmentLayers
        from SAMAutoSegScene.SliceGeometry import SliceGeometry, viewedSlice
        from SAMAutoSegScene.VolumeReader import requireReadable

        volume, session = self.volumeNode, self._session
        requireReadable(volume)
        backbone = session.clickFile()
        if backbone is None:
            raise SAMAutoSegError(_("Clicks need a SAM: download LiteMedSAM under Model."))
        view = viewedSlice(sliceNode, volume)
        if view.degrees > _MOST_DEGREES:
            raise SAMAutoSegError(
                _(
                    "This view is tilted against the image: choose 'Rotate to volume plane' in its"
                    " bar."
                )
            )
        geometry = SliceGeometry(volume, view.plane)
        voxel = geometry.voxelFromRAS(ras)
        if voxel is None:
            raise SAMAutoSegError(_("This is outside of the image."))
        segmentation, segmentId = self._segmentToEdit()
        layers = SegmentLayers(segmentation, geometry.grid)
        place = view.plane, voxel[0], segmentId
        self._clicks.follow(place, layers.stamp(segmentId))
        prompt = makePrompt(layers, geometry, voxel, segmentId)
        self._say(_("Segmenting..."))

        def onVolume(key):
            params = {"volume": key, "backbone": str(backbone), "axis": view.plane}
            params |= {"slice": voxel[0], **prompt.params}
            if session.device:
                params["device"] = session.device
            session.client.send(
                "click", params, on_result=onResult, on_error=lambda message, d: self._say(message)
            )

        def onResult(result):
            try:
                self._write(segmentation, volume, place, prompt, result["mask"])
            except SAMAutoSegError as error:
                self._say(str(error)[:1].upper() + str(error)[1:], isError=True)

        self._opening = session.volumes.open(volume, onVolume, self._say)

    def _write(self, segmentation, volume, place, prompt, answer):
        from SAMAutoSegScene.SegmentWriter import SegmentWriter

        plane, number, segmentId = place
        editorNode, saveUndo = self.editorOf(segmentation)
        writer = SegmentWriter(
            segmentation,
            volume,
            editorNode=editorNode,
            saveUndo=saveUndo,
            ledger=self._ledgers.ledger,
        )
        changed = writer.writeMask(plane, number, prompt.change(answer), segmentId, prompt.mode)
        if self._clicks.place == place:
            self._clicks.wrote(writer.layers.stamp(segmentId))
        self._say("" if changed else _("Nothing changed: masking or another segment forbids it."))
        self._refreshButtons()

    def _segmentToEdit(self):
        """The selected segment; a first one is made where there is none."""
        from SAMAutoSegScene.SegmentationOutput import prepareSegmentation

        node = self.segmentationNode
        if node is None or not node.GetSegmentation().GetNumberOfSegments():
            first = structure_named(_("Structure 1"), 1)
            node = prepareSegmentation(self.volumeNode, [first], node).node
            self._session.parameterNode.outputSegmentation = node
            self._session.changed.emit()
        self.ensureEditor()
        chosen = self.editor.currentSegmentID()
        segmentId = chosen or node.GetSegmentation().GetNthSegmentID(0)
        if not chosen:
            self.editor.setCurrentSegmentID(segmentId)
        return node, segmentId

    # Life

    def enter(self):
        if self._entered:
            return
        self._entered = True
        self._observeViews()
        self._installShortcuts()
        if not self._ui.correctCollapsibleButton.collapsed:
            self.ensureEditor()
        self._enterEditor()
        self._viewTimer.start()

    def exit(self):
        if not self._entered:
            return
        self._entered = False
        self._letGoOfTools()
        self._unobserveViews()
        for shortcut in self._shortcuts:
            shortcut.enabled = False
            shortcut.deleteLater()
        self._shortcuts = []
        if self.editor is not None:
            self.editor.setActiveEffect(None)
            self.editor.uninstallKeyboardShortcuts()
            self.editor.removeViewObservations()

    def onSceneStartClose(self):
        self._letGoOfTools()
        self._ledgers.close()
        self.editorNode = None
        self._preparedFor = None
        if self.editor is not None:
            self.editor.setActiveEffect(None)
            self.editor.setSegmentationNode(None)
            self.editor.removeViewObservations()

    def onSceneEndClose(self):
        self.selectEditorNode()
        if self.editor is not None:
            self.editor.updateWidgetFromMRML()
            if self._entered:
                self.editor.setupViewObservations()

    def cleanup(self):
        self.exit()
        for timer in (self._lookTimer, self._viewTimer, self._prepareTimer):
            timer.stop()
        self._ledgers.changed.disconnectAll()
        self._ledgers.close()
        if self.editor is not None:
            self.editor.setSegmentationNode(None)
            self.editor.setMRMLSegmentEditorNode(None)
            self.editor.setMRMLScene(None)
            self.editor.setParent(None)
            self.editor.deleteLater()
            self.editor = self.editorNode = None

    def onLayoutChanged(self):
        self.tools.refreshViews()
        if self._entered:
            self._unobserveViews()
            self._observeViews()

    def _enterEditor(self):
        if self.editor is not None:
            self.selectEditorNode()
            self.editor.setupViewObservations()
            self.editor.installKeyboardShortcuts()
            self.editor.updateWidgetFromMRML()

    def _letGoOfTools(self):
        for button in self._buttons:
            button.checked = False
        self.tools.choose("")
        self._clicks.clear()

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
        for key, do in (
            ("A", ui.addPointButton.click),
            ("S", ui.removePointButton.click),
            ("D", ui.boxButton.click),
            ("N", self.nextToCheck),
            ("M", self.markReviewed),
            ("X", ui.excludeSliceButton.click),
        ):
            shortcut = qt.QShortcut(qt.QKeySequence(key), window)
            shortcut.connect("activated()", do)
            self._shortcuts.append(shortcut)


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
