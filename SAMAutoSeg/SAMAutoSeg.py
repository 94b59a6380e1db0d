import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import qt
import slicer
import vtk
from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

# Slicer knows the folder of this file. Installed, the library lies in it; in a checkout, beside it.
if importlib.util.find_spec("SAMAutoSegLib") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from SAMAutoSegPanels.Options import (  # noqa: E402
    Budget,
    GrayLevels,
    Method,
    Precision,
    Refinement,
    SliceAxis,
)

_PACKAGES = ("SAMAutoSegPanels", "SAMAutoSegScene", "SAMAutoSegLib")


class SAMAutoSeg(ScriptedLoadableModule):
    """Segments volumes with Segment Anything models that learn from corrected slices."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "SAMAutoSeg"
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "SegmentEditor", "SubjectHierarchy"]
        self.parent.contributors = ["SAMAutoSeg contributors"]
        self.parent.helpText = _(
            "Segments a volume with a Segment Anything model, lets you correct some slices, and"
            " teaches the model from them. Everything is computed on this computer. Not a medical"
            " device: for research only."
        )
        self.parent.acknowledgementText = _(
            "Built on Segment Anything (Kirillov et al., 2023), LiteMedSAM (Ma et al.) and BLO-SAM"
            " (Zhang et al., 2024)."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Add the abdominal CT of the tutorial to the module Sample Data."""
    import SampleData

    logic = SampleData.SampleDataLogic
    logic.registerCustomSampleDataCategory("SAMAutoSeg", title="SAMAutoSeg")
    logic.registerCustomSampleDataSource(
        category="SAMAutoSeg",
        sampleName="SAMAutoSegAbdomenCT",
        # Where the image comes from; it is fetched out of an archive of that project.
        uris="https://github.com/wasserth/TotalSegmentator",
        fileNames="example_ct_sm.nii.gz",
        nodeNames="AbdomenCT",
        thumbnailFileName=os.path.join(
            os.path.dirname(__file__), "Resources/Icons/SAMAutoSegAbdomenCT.png"
        ),
        customDownloader=_downloadAbdomenCT,
    )


def _downloadAbdomenCT(source):
    from SAMAutoSegPanels.SampleImages import loadSample

    with slicer.util.tryWithErrorDisplay(_("The sample could not be fetched."), waitCursor=False):
        node = loadSample("abdomen-ct", "AbdomenCT", window=400, level=40)
    return [] if node is None else [node]


@parameterNodeWrapper
class SAMAutoSegParameterNode:
    """What the user chose; saved with the scene.

    inputVolume - what is segmented.
    outputSegmentation - where to; None for a new one.
    model - file name in the model folder, so that scenes hold no path of a computer.
    axis, slices, roi, intensity - which slices are segmented and how they are seen.
    followCorrected, precision, refinement, smoothSlicesMm, largestPart, uncertainty - how they are
        segmented.
    method, budget, holdOut, learnFromOthers - how the model is trained.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    outputSegmentation: vtkMRMLSegmentationNode
    model: str = ""
    axis: SliceAxis = SliceAxis.MODEL
    slices: str = ""
    roi: vtkMRMLMarkupsROINode
    intensity: GrayLevels = GrayLevels.MODEL
    followCorrected: bool = True
    precision: Precision = Precision.AUTOMATIC
    refinement: Refinement = Refinement.OFF
    smoothSlicesMm: Annotated[float, WithinRange(0.0, 10.0)] = 0.0
    largestPart: bool = False
    uncertainty: bool = True
    method: Method = Method.BLO_SAM
    budget: Budget = Budget.STANDARD
    holdOut: bool = True
    learnFromOthers: bool = True


class SAMAutoSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Holds the panels together and follows the life of scene and application."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.session = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._entered = False

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        from SAMAutoSegPanels.CorrectPanel import CorrectPanel
        from SAMAutoSegPanels.DeviceChoice import DeviceChoice
        from SAMAutoSegPanels.ModelPanel import ModelPanel
        from SAMAutoSegPanels.RetrainPanel import RetrainPanel
        from SAMAutoSegPanels.SegmentPanel import SegmentPanel
        from SAMAutoSegPanels.SetUpPanel import SetUpPanel

        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SAMAutoSeg.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)

        self.logic = SAMAutoSegLogic()
        self.session = self.logic.makeSession(self.resourcePath("requirements.txt"))
        ledgers = self.logic.ledgers
        self.setUpPanel = SetUpPanel(self.ui, self.session)
        self.modelPanel = ModelPanel(self.ui, self.session)
        self.segmentPanel = SegmentPanel(
            self.ui,
            self.session,
            ledgers.choose,
            lambda node, make: self.correctPanel.editor.of(node, make),
        )
        self.deviceChoice = DeviceChoice(self.ui, self.session)
        self.correctPanel = CorrectPanel(
            self.ui, self.session, ledgers, lambda: self.segmentPanel.plane()
        )
        self.retrainPanel = RetrainPanel(
            self.ui, self.session, ledgers, self.logic.dataFolder / "jobs"
        )
        self.correctPanel.onStates = self.retrainPanel.onStates

        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(scene, scene.NodeAboutToBeRemovedEvent, self.onNodeAboutToBeRemoved)
        slicer.app.connect("aboutToQuit()", self.onAboutToQuit)
        if slicer.app.layoutManager() is not None:
            slicer.app.layoutManager().connect(
                "layoutChanged(int)", self.correctPanel.onLayoutChanged
            )
        self.initializeParameterNode()
        if self.parent.isEntered:
            self.enter()  # reloaded while it is shown: nobody else says so

    def cleanup(self):
        """The module is unloaded or reloaded, or the application ends."""
        if self.session is None:
            return
        slicer.app.disconnect("aboutToQuit()", self.onAboutToQuit)
        if slicer.app.layoutManager() is not None:
            slicer.app.layoutManager().disconnect(
                "layoutChanged(int)", self.correctPanel.onLayoutChanged
            )
        self.session.changed.disconnectAll()
        self.segmentPanel.abandon()
        self.retrainPanel.cleanup()
        self.correctPanel.cleanup()
        self.setParameterNode(None)
        self.removeObservers()
        self.session.stop()
        self.session = None

    def enter(self):
        self._entered = True
        self.initializeParameterNode()
        self.correctPanel.enter()
        self.session.later(self._onDrawn)

    def _onDrawn(self):
        """What need not be known before the panel is seen."""
        if self._entered and self.session is not None:
            self.setUpPanel.look()
            self.retrainPanel.lookForJobs()
            self.session.startEngine()

    def exit(self):
        self._entered = False
        self.correctPanel.exit()

    def onAboutToQuit(self):
        self.cleanup()

    def onReload(self):
        """Reload the packages too; the base class reloads this file only."""
        for name in list(sys.modules):
            if name.split(".")[0] in _PACKAGES:
                del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller, event):
        self.segmentPanel.abandon()
        self.correctPanel.onSceneStartClose()
        self.retrainPanel.onSceneStartClose()
        self.session.volumes.closeAll()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        self.correctPanel.onSceneEndClose()
        if self._entered:
            self.initializeParameterNode()

    def onSceneEndImport(self, caller, event):
        if self._entered:
            self.correctPanel.onSceneEndClose()
            self.initializeParameterNode()
            self.retrainPanel.onNodes()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAboutToBeRemoved(self, caller, event, node):
        if slicer.mrmlScene.IsClosing() or node is None:
            return
        self.segmentPanel.onNodeRemoved(node)
        self.retrainPanel.onNodes()
        if node.IsA("vtkMRMLScalarVolumeNode"):
            self.session.volumes.close(node.GetID())

    def initializeParameterNode(self):
        """Have the scene's choices shown; where no volume is chosen, the one in the views is."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.inputVolume:
            from SAMAutoSegScene.DefaultVolume import defaultVolume

            volume = defaultVolume(slicer.mrmlScene)
            if volume is not None:
                self._parameterNode.inputVolume = volume

    def setParameterNode(self, parameterNode):
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(
                self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameterNodeModified
            )
        self._parameterNode = self.session.parameterNode = parameterNode
        if parameterNode is not None:
            self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
            self.addObserver(
                parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameterNodeModified
            )
        self.session.changed.emit()

    def onParameterNodeModified(self, caller=None, event=None):
        self.session.changed.emit()


class SAMAutoSegLogic(ScriptedLoadableModuleLogic):
    """Folders, models and the engine; needs no widget."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        from SAMAutoSegPanels.CurrentLedger import CurrentLedger

        self.ledgers = CurrentLedger()

    def getParameterNode(self):
        return SAMAutoSegParameterNode(super().getParameterNode())

    @property
    def dataFolder(self):
        """The user's models and trainings; outside of the extension, which updates replace."""
        from SAMAutoSegLib.files import user_data_dir

        return user_data_dir()

    def makeSession(self, requirementsFile):
        """What the panels share; starts nothing."""
        from SAMAutoSegPanels.Dependencies import Dependencies
        from SAMAutoSegPanels.LibraryCommands import LibraryCommands
        from SAMAutoSegPanels.ModelLibrary import ModelLibrary
        from SAMAutoSegPanels.QProcessTransport import QProcessTransport
        from SAMAutoSegPanels.Session import Session

        from SAMAutoSegLib.resources import resource

        catalogFile = resource("ModelCatalog.json")
        library = ModelLibrary(
            self.dataFolder / "models", [catalogFile.parent / "Models"], catalogFile
        )
        return Session(
            library,
            Dependencies(requirementsFile),
            LibraryCommands(QProcessTransport),
            QProcessTransport,
            lambda do: qt.QTimer.singleShot(0, do),
        )


class SAMAutoSegTest(ScriptedLoadableModuleTest):
    """The whole loop in Slicer, from the buttons; see `SAMAutoSegPanels.SelfTest`."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_fromTheFirstClickToABetterModel()

    def test_fromTheFirstClickToABetterModel(self):
        from SAMAutoSegPanels.SelfTest import SelfTest

        SelfTest(self, slicer.util.getModuleWidget("SAMAutoSeg")).run()
