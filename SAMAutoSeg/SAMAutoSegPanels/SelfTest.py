"""The whole loop in a real Slicer, from the buttons, on a small volume made here.

Nothing is mocked: the engine runs, a model is trained and kept, and is removed at the end.
"""

import time

import numpy as np
import slicer
import vtk

from SAMAutoSegPanels.Options import Budget, GrayLevels, Refinement
from SAMAutoSegPanels.RetrainState import FINISHED

_MODEL = "SAMAutoSeg self test"
_SLICES = (4, 7, 10, 13, 16, 19)
_OTHER_SLICES = (6, 12, 18)

# In seconds, for one turn of the event loop. What the interface's own thread computes hardly
# depends on what else the computer does; a gap does, as a training and views that are drawn
# without a graphics card may share few cores, so only one where something hangs is a failure.
_MOST_COMPUTED = 0.5
_LONGEST_GAP = 10.0


class SelfTest:
    """Plays a user.

    Args:
        case: the unittest case that judges.
        widget: of the module.
    """

    def __init__(self, case, widget):
        self.case = case
        self.widget = widget
        self.ui = widget.ui
        self.session = widget.session
        self.longest = self.most = 0.0

    def run(self):
        slicer.util.selectModule("SAMAutoSeg")
        self._say("The set-up is complete and LiteMedSAM is here")
        self.setUp()
        try:
            self._say("Boxes in six slices, undo and review")
            self.correct()
            self._say("Boxes in three slices of another volume")
            self.correctAnother()
            self._say("Keys and mouse are for one tool at a time")
            self.tools()
            self._say("A model learns from them")
            self.retrain()
            self._say("The model segments; what was corrected stays")
            self.segment()
            self._say("In a region, with all that can be asked for")
            self.options()
            self._say("Cancel keeps slices, deleted nodes and a closed scene do no harm")
            self.breakOff()
            self._say("Reloaded, the module is as it was when it was opened")
            self.reload()
            self.case.assertLess(self.most, _MOST_COMPUTED, "the interface stood still")
            self.case.assertLess(self.longest, _LONGEST_GAP, "the interface stood still")
        finally:
            for entry in self.session.library.models():
                if entry.name == _MODEL:
                    for version in self.session.library.versions(entry):
                        self.session.library.remove(version)
        self._say("Done")

    def setUp(self):
        case, session = self.case, self.session
        self.wait(lambda: session.found, 10, "a look at what is installed")
        if not session.ready:
            # So it is where extensions are built and no PyTorch is installed.
            case.skipTest(self.ui.setUpLabel.text)
        if not session.library.hasDefaultBackbone():
            self.widget.modelPanel.download(session.library.defaultBackbone)
            self.wait(lambda: not session.commands.running, 600, "the download of LiteMedSAM")
            case.assertTrue(session.library.hasDefaultBackbone(), self.ui.modelMessageLabel.text)
        session.startEngine()
        self.wait(lambda: session.client.state == "ready", 120, "the engine")
        session.chooseModel(session.library.find(session.library.defaultBackbone["file_name"]))
        self.volume, self.truth = _volume()
        self.node.inputVolume = self.volume
        slicer.util.setSliceViewerLayers(background=self.volume, fit=True)
        self.turn()
        # A plain SAM cannot segment by itself, and the button says so.
        case.assertFalse(self.ui.segmentButton.enabled)
        case.assertIn("no structures", self.ui.segmentButton.toolTip)

    def correct(self):
        case, panel = self.case, self.widget.correctPanel
        self.ui.correctCollapsibleButton.collapsed = False
        self.draw(_SLICES)

        last = _SLICES[-1]
        panel.editor.widget.undo()
        self.turn()
        case.assertEqual(self.overlap(last), 0.0)
        panel.editor.widget.redo()
        self.turn()
        case.assertGreater(self.overlap(last), 0.5)

        panel.goTo(_SLICES[0])
        self.wait(lambda: self.ui.markReviewedButton.enabled, 5, "the slice in view")
        self.ui.markReviewedButton.click()
        ledger = self.widget.logic.ledgers.ledger
        case.assertEqual(ledger.stateOf(_SLICES[0]), "reviewed")
        self.wait(lambda: self.ui.leaveToModelButton.enabled, 5, "a slice to leave to the model")
        self.ui.leaveToModelButton.click()
        case.assertEqual(ledger.stateOf(_SLICES[0]), "model")
        self.turn()
        self.ui.markReviewedButton.click()
        case.assertEqual(ledger.stateOf(_SLICES[0]), "reviewed")

    def draw(self, numbers):
        """A new segment, with a box in each of these slices."""
        panel = self.widget.correctPanel
        self.wait(lambda: panel.segmentationNode is not None, 5, "a segmentation to begin with")
        add = slicer.util.findChild(panel.editor.widget, "AddSegmentButton")
        self.wait(lambda: add.enabled, 5, "the Add button")
        add.click()
        self.ui.boxButton.click()
        for number in numbers:
            panel.goTo(number)
            self.turn()
            self._dragBox(number)
            self.wait(lambda n=number: self.overlap(n) > 0.5, 60, f"the answer in slice {number}")
        self.ui.boxButton.click()
        ledger = self.widget.logic.ledgers.ledger
        self.wait(lambda: panel.strip._states, 10, "the slice strip")
        states = [ledger.stateOf(number) for number in numbers]
        self.case.assertEqual(states, ["corrected"] * len(numbers))

    def correctAnother(self):
        case, ui, node = self.case, self.ui, self.node
        first = self.volume, node.outputSegmentation
        self.volume, _truth = _volume("SAMAutoSeg self test 2")
        node.inputVolume, node.outputSegmentation = self.volume, None
        slicer.util.setSliceViewerLayers(background=self.volume, fit=True)
        self.draw(_OTHER_SLICES)
        self.volume, node.outputSegmentation = first
        node.inputVolume = self.volume
        slicer.util.setSliceViewerLayers(background=self.volume, fit=True)
        words = "3 of SAMAutoSeg self test 2"
        self.wait(lambda: words in ui.retrainSummaryLabel.text, 10, "the other volume")
        case.assertIn("1 of SAMAutoSeg self test 2 held back", ui.retrainSummaryLabel.text)
        case.assertTrue(ui.otherVolumesCheckBox.isVisibleTo(ui.retrainSettings))
        node.learnFromOthers = False
        self.turn()
        case.assertNotIn(words, ui.retrainSummaryLabel.text)
        node.learnFromOthers = True

    def tools(self):
        case, ui, panel = self.case, self.ui, self.widget.correctPanel
        editor = panel.editor.widget
        ui.boxButton.click()
        editor.setActiveEffectByName("Draw")
        self.turn()
        case.assertFalse(ui.boxButton.checked)
        case.assertEqual(self.keys(), "MN")
        ui.boxButton.click()
        self.turn()
        case.assertIsNone(editor.activeEffect())
        case.assertEqual(self.keys(), "ADMNSX")
        ui.boxButton.click()

    def retrain(self):
        case, panel, ui = self.case, self.widget.retrainPanel, self.ui
        ui.retrainCollapsibleButton.collapsed = False
        self.node.budget = Budget.QUICK
        ui.modelNameEdit.text = _MODEL
        panel._onNameEdited(_MODEL)
        self.wait(lambda: ui.retrainButton.enabled, 10, "the Retrain button")
        ui.retrainButton.click()
        self.wait(lambda: panel.watched is not None, 60, "the training's start")
        self.wait(
            lambda: panel.watched is None or panel.watched.state == FINISHED, 900, "the training"
        )
        case.assertIsNotNone(panel.watched, ui.retrainStatusLabel.text)
        case.assertTrue(panel.watched.rows, "a score on the slices that were held back")
        case.assertGreater(panel.watched.rows[0].after, 0.6)
        case.assertEqual(len(panel.watched.job.spec["volumes"]), 2)
        ui.keepButton.click()
        self.turn()
        case.assertEqual(self.session.model.name, _MODEL)

    def segment(self):
        case, ui, panel = self.case, self.ui, self.widget.segmentPanel
        kept = {number: self.slice(number) for number in _SLICES}
        self.wait(lambda: ui.segmentButton.enabled, 10, "the Segment button")
        ui.segmentButton.click()
        case.assertEqual(ui.segmentButton.text, "Cancel")
        self.wait(lambda: not panel.running, 300, "the segmentation")
        case.assertFalse(panel.run.failed, panel.run.message)
        for number, before in kept.items():
            case.assertTrue((self.slice(number) == before).all(), f"slice {number} was changed")
        found = self.segmentArray()
        dice = 2 * (found & self.truth).sum() / (found.sum() + self.truth.sum())
        case.assertGreater(dice, 0.7)
        provenance = self.node.outputSegmentation.GetAttribute("SAMAutoSeg.Provenance")
        case.assertIn(_MODEL, provenance)

    def options(self):
        from SAMAutoSegScene.SliceGeometry import roiOfNode

        case, ui, node, panel = self.case, self.ui, self.node, self.widget.segmentPanel
        node.outputSegmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        region = ui.roiSelector.addNode()
        self.turn()
        region.SetSizeWorld(20.0, 24.0, 40.0)
        node.uncertainty = node.largestPart = True
        node.refinement = Refinement.SECOND
        node.smoothSlicesMm = 3.0
        node.intensity = GrayLevels.VIEW
        self.wait(lambda: ui.segmentButton.enabled, 10, "the Segment button")
        ui.segmentButton.click()
        self.wait(lambda: not panel.running, 300, "the segmentation")
        case.assertFalse(panel.run.failed, panel.run.message)
        found = self.segmentArray()
        inside = np.zeros_like(found)
        inside[roiOfNode(region, self.volume).kji] = True
        case.assertGreater((found & self.truth & inside).sum(), 0.5 * (self.truth & inside).sum())
        case.assertFalse((found & ~inside).any(), "the region was left")
        ledger = self.widget.logic.ledgers.ledger
        case.assertIn(12, ledger.uncertainties(), "no uncertainty")
        slicer.mrmlScene.RemoveNode(region)
        node.uncertainty = node.largestPart = False
        node.refinement = Refinement.OFF
        node.smoothSlicesMm = 0.0
        node.intensity = GrayLevels.MODEL

    def breakOff(self):
        from SAMAutoSegScene.SegmentationOutput import volumeOf

        case, ui, panel = self.case, self.ui, self.widget.segmentPanel
        self.node.outputSegmentation = None
        self.turn()
        ui.segmentButton.click()
        ui.segmentButton.click()
        self.wait(lambda: not panel.running, 60, "the cancel")
        case.assertTrue(ui.segmentButton.enabled)

        # The selector goes on to any other; that of the other volume would be overwritten.
        slicer.mrmlScene.RemoveNode(self.node.outputSegmentation)
        self.turn()
        followed = self.node.outputSegmentation
        case.assertIn(followed and volumeOf(followed), (None, self.volume))

        self.node.outputSegmentation = None
        ui.segmentButton.click()
        slicer.mrmlScene.RemoveNode(self.volume)
        self.turn()
        case.assertFalse(panel.running)
        case.assertIn("deleted", panel.run.message)

        self.volume, self.truth = _volume()
        self.node.inputVolume = self.volume
        self.wait(lambda: ui.segmentButton.enabled, 10, "the Segment button")
        ui.segmentButton.click()
        self.turn()
        slicer.mrmlScene.Clear()
        self.turn()
        case.assertFalse(panel.running)
        case.assertFalse(ui.segmentButton.enabled)

    def reload(self):
        self.widget.onReload()
        self.widget = slicer.util.getModuleWidget("SAMAutoSeg")
        self.session = self.widget.session
        self.wait(lambda: self.session.found, 10, "a look at what is installed")
        self.wait(lambda: self.session.client.state == "ready", 120, "the engine")
        self.widget.ui.correctCollapsibleButton.collapsed = True
        self.turn()
        self.case.assertEqual(self.keys(), "")
        self.widget.ui.correctCollapsibleButton.collapsed = False
        self.turn()
        self.case.assertEqual(self.keys(), "ADMNSX")

    # Help

    def keys(self):
        """Keys of the Correct section that do something now."""
        shortcuts = self.widget.correctPanel._shortcuts
        return "".join(sorted(key for key, one in shortcuts.items() if one.enabled))

    @property
    def node(self):
        return self.session.parameterNode

    def wait(self, condition, seconds, what):
        """Let Slicer go on until something is the case; measures how long it was blocked."""
        until = time.monotonic() + seconds
        while not condition():
            self.case.assertLess(time.monotonic(), until, f"{what} took more than {seconds} s")
            self.turn()

    def turn(self):
        started, computed = time.monotonic(), time.thread_time()
        slicer.app.processEvents()
        self.longest = max(self.longest, time.monotonic() - started)
        self.most = max(self.most, time.thread_time() - computed)
        time.sleep(0.005)

    def segmentArray(self):
        segmentation = self.node.outputSegmentation
        if segmentation is None:
            return np.zeros(self.truth.shape, bool)
        first = segmentation.GetSegmentation().GetNthSegmentID(0)
        found = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, first, self.volume)
        return found.astype(bool)

    def slice(self, number):
        return self.segmentArray()[number].copy()

    def overlap(self, number):
        found, truth = self.slice(number), self.truth[number]
        return 2 * (found & truth).sum() / max(found.sum() + truth.sum(), 1)

    def _dragBox(self, number):
        """Drag the mouse around the structure in the axial view."""
        view = slicer.app.layoutManager().sliceWidget("Red").sliceView()
        toView = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(view.mrmlSliceNode().GetXYToRAS(), toView)
        rows, columns = np.nonzero(self.truth[number])
        toRAS = vtk.vtkMatrix4x4()
        self.volume.GetIJKToRASMatrix(toRAS)
        ends = []
        for i, j in ((columns.min() - 1, rows.min() - 1), (columns.max() + 1, rows.max() + 1)):
            ras = toRAS.MultiplyPoint((float(i), float(j), float(number), 1.0))
            ends.append([round(value) for value in toView.MultiplyPoint(ras)[:2]])
        interactor = view.interactor()
        interactor.SetEventInformation(*ends[0], 0, 0)
        interactor.LeftButtonPressEvent()
        interactor.SetEventInformation(*ends[1], 0, 0)
        interactor.MouseMoveEvent()
        interactor.LeftButtonReleaseEvent()

    def _say(self, text):
        gap = f"{1000 * self.longest:.0f} ms, {1000 * self.most:.0f} ms of it computing"
        print(f"{text} (longest gap so far {gap})", flush=True)
        self.case.delayDisplay(text, 100)


def _volume(name="SAMAutoSeg self test"):
    """A ball in noise, 64 x 64 x 24 voxels of 1 x 1 x 3 mm; the node and where the ball is."""
    k, j, i = np.mgrid[:24, :64, :64]
    ball = ((i - 34) / 18) ** 2 + ((j - 30) / 14) ** 2 + ((k - 12) / 10) ** 2 < 1
    noise = np.random.default_rng(7).normal(0, 12, ball.shape)
    array = np.where(ball, 180, 60) + noise
    node = slicer.util.addVolumeFromArray(array.astype(np.int16), name=name)
    node.SetSpacing(1.0, 1.0, 3.0)
    node.CreateDefaultDisplayNodes()
    return node, ball
