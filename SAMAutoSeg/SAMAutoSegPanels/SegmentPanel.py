"""Volume in, segmentation out: the Segment button and its options."""

import slicer
import vtk

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.selection import parse_slices
from SAMAutoSegPanels.Options import GrayLevels, SliceAxis
from SAMAutoSegPanels.SceneOutput import SceneOutput
from SAMAutoSegPanels.SegmentRun import SegmentRun
from SAMAutoSegPanels.SegmentState import IDLE, SegmentFacts, segmentView
from SAMAutoSegPanels.StatusLabel import showStatus
from SAMAutoSegPanels.Translation import _
from SAMAutoSegPanels.Wording import asSentence


class SegmentPanel:
    """Starts and cancels runs.

    Args:
        ledgerOf, editorOf: see `SceneOutput`.
    """

    def __init__(self, ui, session, ledgerOf, editorOf):
        self._ui = ui
        self._session = session
        self._ledgerOf = ledgerOf
        self._editorOf = editorOf
        self._estimateFor = None
        self._optionsProblem = ""
        self._region = None
        self._regionTag = None
        self._shown = None
        self._removing = None
        self.run = None
        ui.segmentButton.connect("clicked()", self.onSegmentButton)
        ui.roiSelector.connect("nodeAddedByUser(vtkMRMLNode*)", self._onNewRoi)
        session.changed.connect(self.refresh)

    def _onNewRoi(self, roiNode):
        """A region made by the selector has no extent, and could not be seen."""
        from SAMAutoSegScene.SliceGeometry import fitRoi

        volumeNode = self._session.parameterNode.inputVolume
        if volumeNode is not None:
            fitRoi(roiNode, volumeNode)

    def _watchRegion(self, region):
        """Have a region that is drawn, moved or turned looked at anew."""
        if region is self._region:
            return
        if self._region is not None:
            self._region.RemoveObserver(self._regionTag)
        self._region = region
        if region is not None:
            event = vtk.vtkCommand.ModifiedEvent
            self._regionTag = region.AddObserver(event, lambda caller, event: self.refresh())

    @property
    def running(self):
        return self.run is not None and self.run.running

    @property
    def facts(self):
        session, run = self._session, self.run
        node = session.parameterNode
        volume = None if node is None else node.inputVolume
        return SegmentFacts(
            ready=session.ready,
            hasVolume=volume is not None,
            volumeProblem=volumeProblem(volume),
            model=session.model,
            modelProblem=session.modelProblem,
            backboneProblem=session.backboneProblem,
            optionsProblem=self._optionsProblem,
            run=IDLE if run is None else run.state,
            fraction=0.0 if run is None else run.fraction,
            secondsLeft=None if run is None else run.secondsLeft,
            lastMessage="" if run is None else run.message,
            failed=run is not None and run.failed,
        )

    def refresh(self):
        if self.running:
            self._shown = self._chosen()
        else:
            self._followVolume()
            self._lookAtOptions()
        ui, facts = self._ui, self.facts
        view = segmentView(facts)
        ui.segmentButton.text = view.button
        ui.segmentButton.enabled = view.enabled
        ui.segmentButton.toolTip = view.toolTip
        showStatus(ui.segmentStatusLabel, view.status, view.failed)
        bar = ui.segmentProgressBar
        bar.visible = view.percent is not None
        if view.percent is not None:
            bar.setMaximum(0 if view.percent < 0 else 100)
            bar.setValue(max(view.percent, 0))
        choices = (ui.inputSelector, ui.outputSelector, ui.advancedGroupBox, ui.modelSelector)
        for widget in choices:
            widget.enabled = not self.running
        self._askEstimate(facts)

    def _chosen(self):
        node = self._session.parameterNode
        if node is None:
            return None, None, None
        return node, node.inputVolume, node.outputSegmentation

    def _followVolume(self):
        """Who chooses another volume does not mean to overwrite what was made for the one before.

        That would fit as well where both have the same voxels, such as two scans of one patient.
        Neither does who deletes the segmentation: the selector goes on to another one by itself. A
        segmentation that is chosen after the volume is meant.
        """
        before, self._shown = self._shown, self._chosen()
        node, volume, segmentation = self._shown
        if before is None or before[0] is not node or volume is None:
            return
        # What a run ended with was said of another choice, if the user has changed it since.
        refused = self.run is not None and self.run.failed
        instead = refused and before[2] not in (None, segmentation)
        other = before[1] not in (None, volume) and not self._isGoing(before[1])
        if other or instead:
            self.run = None
        if volume is before[1] and self._removing is None and not self._isGoing(before[2]):
            return
        from SAMAutoSegScene.SegmentationOutput import segmentationOf, volumeOf

        if other and not volumeProblem(volume):
            # Before others hear of it: the Segment Editor shows its volume, too, but in views that
            # stay where they are.
            self._showInstead(volume)
        if segmentation is not None and volumeOf(segmentation) not in (None, volume):
            segmentation = None
            if not volumeProblem(volume):
                segmentation = segmentationOf(volume, besides=self._removing)
            self._shown = node, volume, segmentation
            node.outputSegmentation = segmentation

    def _isGoing(self, node):
        """Whether it was just removed, or is being so."""
        return node is not None and (node is self._removing or node.GetScene() is None)

    def _showInstead(self, volume):
        """Have the views show another volume, without what was found in the one before."""
        from SAMAutoSegScene.DefaultVolume import isInViews
        from SAMAutoSegScene.SegmentationOutput import hideOthers

        if not isInViews(volume):
            slicer.util.setSliceViewerLayers(background=volume, fit=True)
        hideOthers(volume)

    def onSegmentButton(self):
        if self.running:
            self.run.cancel()
            return
        session, node = self._session, self._session.parameterNode
        volume, model = node.inputVolume, session.model
        if model is None:  # its file was deleted since the button was drawn
            session.changed.emit()
            return
        scene = SceneOutput(self._ledgerOf, self._editorOf, self._onSegmentation)
        try:
            plane = self.plane()
            request = self.request(volume, plane)
        except SAMAutoSegError as error:
            slicer.util.errorDisplay(str(error))
            return
        self.run = SegmentRun(
            session,
            scene,
            model,
            volume,
            node.outputSegmentation,
            request,
            plane,
            node.followCorrected,
        )
        # Ten times a second: what others show does not depend on it.
        self.run.changed.connect(self.refresh)
        self._estimateFor = None  # the run tells the engine how long a slice takes
        self.run.start()

    def request(self, volume, plane):
        """The engine's parameters from the options.

        Raises:
            SAMAutoSegError: slices or region that do not fit the volume.
        """
        from SAMAutoSegScene.SliceGeometry import roiOfNode

        node, request = self._session.parameterNode, {**self._session.loading}
        if node.slices.strip():
            request["slices"] = parse_slices(node.slices, len(_stackOf(volume, plane)))
        if node.roi is not None:
            roi = roiOfNode(node.roi, volume)
            request["roi"] = [list(roi.i), list(roi.j), list(roi.k)]
        if self.intensity(volume):
            request["intensity"] = self.intensity(volume)
        if node.precision.value:
            request["precision"] = node.precision.value
        iterations, kept = node.refinement.value
        if iterations:
            request["refine"] = iterations
        if kept is not None:
            request["keep_iteration"] = kept
        cleanup = {}
        if node.largestPart:
            cleanup["largest_component"] = True
        if node.smoothSlicesMm > 0:
            cleanup["smooth_slices_mm"] = node.smoothSlicesMm
        if cleanup:
            request["cleanup"] = cleanup
        if node.uncertainty:
            request["uncertainty"] = True
        return request

    def intensity(self, volume):
        """The gray levels as the engine reads them, '' for those of the model."""
        choice = self._session.parameterNode.intensity
        if choice != GrayLevels.VIEW:
            return choice.value
        display = volume.GetScalarVolumeDisplayNode()
        if display is None:
            return ""
        return f"{display.GetWindowLevelMin()!r},{display.GetWindowLevelMax()!r}"

    def plane(self):
        """The plane of the slices: as chosen, else the model's, else that of the volume.

        Raises:
            SAMAutoSegError: there is no volume.
        """
        from SAMAutoSegScene.VolumeReader import gridOfVolume, requireReadable

        from SAMAutoSegLib.images.slices import plane_along, plane_for

        node, model = self._session.parameterNode, self._session.model
        requireReadable(node.inputVolume)
        if node.axis != SliceAxis.MODEL:
            return node.axis.value
        grid = gridOfVolume(node.inputVolume)
        if model is not None and model.plane:
            return plane_for(grid, model.plane)
        return plane_along(grid, "auto")

    def abandon(self):
        """The scene is being closed, or the module goes away."""
        if self.run is not None:
            run, self.run = self.run, None
            run.changed.disconnectAll()
            run.abandon()
        self._watchRegion(None)
        self._estimateFor = None

    def onNodeRemoved(self, node):
        """A node is being deleted; a run that needs it ends, what it wrote elsewhere stays."""
        if self._shown is not None and any(node is one for one in self._shown[1:]):
            # The selectors go on to other nodes by themselves, until all has been told.
            self._removing = node
            self._session.later(self._onRemoved)
        if self.running and self.run.uses(node):
            name = node.GetName()
            run = self.run
            run.abandon()
            run.failed = True
            run.message = _("{name} was deleted, so the segmentation was stopped.").format(
                name=name
            )
            self._session.changed.emit()

    def _onRemoved(self):
        self._removing = None

    def _onSegmentation(self, segmentationNode):
        self._session.parameterNode.outputSegmentation = segmentationNode

    def _lookAtOptions(self):
        """Find out whether the options fit the volume, and how many of its slices they mean."""
        session = self._session
        node, share = session.parameterNode, 1.0
        self._watchRegion(None if node is None else node.roi)
        volume = None if node is None else node.inputVolume
        self._optionsProblem = ""
        if volume is not None and not volumeProblem(volume):
            try:
                if node.slices.strip() or node.roi is not None:
                    plane = self.plane()
                    share = shareOfSlices(self.request(volume, plane), volume, plane)
            except SAMAutoSegError as error:
                self._optionsProblem = asSentence(error)
        if share != session.shareOfSlices:
            session.shareOfSlices = share
            session.changed.emit()

    def _askEstimate(self, facts):
        """Find out how long all slices take, once for each volume, model, plane and device."""
        session = self._session
        if session.client.state != "ready" or self.running or facts.volumeProblem:
            return
        model = session.model
        if not facts.hasVolume or model is None or not model.structures or model.problem:
            return
        volume = session.parameterNode.inputVolume
        params = {"model": str(model.path), "axis": self.plane(), **session.loading}
        wanted = {"volume": volume.GetID(), **params}
        if wanted == self._estimateFor:
            return
        self._estimateFor = wanted
        session.secondsForVolume = None

        def onVolume(key):
            session.client.send("estimate", {**params, "volume": key}, on_result=onEstimate)

        def onEstimate(result):
            if wanted == self._estimateFor:
                session.secondsForVolume = result.get("seconds")
                session.changed.emit()

        session.volumes.open(volume, onVolume, lambda message: None)


def shareOfSlices(request, volumeNode, plane):
    """How much of a volume a request means: 1 for all of its slices."""
    stack = _stackOf(volumeNode, plane)
    every = range(len(stack))
    first, end = request["roi"][stack.axis_index] if "roi" in request else (0, len(stack))
    return sum(first <= n < end for n in request.get("slices", every)) / len(stack)


def _stackOf(volumeNode, plane):
    from SAMAutoSegScene.SliceGeometry import emptyStack
    from SAMAutoSegScene.VolumeReader import gridOfVolume

    return emptyStack(gridOfVolume(volumeNode), plane)


def volumeProblem(volumeNode):
    """Why a volume cannot be segmented, '' if it can."""
    if volumeNode is None:
        return ""
    from SAMAutoSegScene.VolumeReader import requireReadable

    try:
        requireReadable(volumeNode)
    except SAMAutoSegError as error:
        return asSentence(error)
    return ""
