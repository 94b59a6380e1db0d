"""Slicer's Segment Editor inside of the panel, with an editor node of its own."""

import slicer

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


class EmbeddedEditor:
    """Made when it is needed first: that takes longer than opening a module may.

    Args:
        frame: the widget that it is laid into.
        nodesOf: the segmentation and the volume that it shows.
        onEffect: told True when an effect has become active, False when none is any more.

    Attributes:
        widget, node: the editor and its node; None until it is made, and the node while a scene is
            closed.
    """

    def __init__(self, frame, nodesOf, onEffect):
        self._frame = frame
        self._nodesOf = nodesOf
        self._onEffect = onEffect
        self._entered = False
        self._observed = None
        self._hadEffect = False
        self.widget = None
        self.node = None

    def ensure(self):
        if self.widget is not None:
            return
        self.widget = slicer.qMRMLSegmentEditorWidget()
        self.widget.setMaximumNumberOfUndoStates(10)
        self._selectNode()
        self.widget.setMRMLScene(slicer.mrmlScene)
        self.widget.segmentationNodeSelectorVisible = False
        self.widget.sourceVolumeNodeSelectorVisible = False
        self.widget.switchToSegmentationsButtonVisible = False
        self.widget.unorderedEffectsVisible = False
        self.widget.setEffectNameOrder(_EFFECTS)
        self._frame.layout().addWidget(self.widget)
        self.refresh()
        if self._entered:
            self._watchViews()

    def refresh(self):
        """Show the segmentation and the volume that are chosen now."""
        if self.widget is None or self.node is None:
            return
        segmentation, volume = self._nodesOf()
        if self.widget.segmentationNode() is not segmentation:
            self.widget.setSegmentationNode(segmentation)
        if segmentation is None:
            return
        if self.widget.sourceVolumeNode() is not volume:
            self.widget.setSourceVolumeNode(volume)
        # A run adds segments to a segmentation that had none: what nobody selects, effects are
        # gray for.
        self._selectSegment(segmentation)

    def _selectSegment(self, segmentationNode):
        """The selected segment's id, if it is of this segmentation; else the first one's."""
        segmentation = segmentationNode.GetSegmentation()
        chosen = self.widget.currentSegmentID()
        if chosen and segmentation.GetSegment(chosen) is not None:
            return chosen
        if not segmentation.GetNumberOfSegments():
            return ""
        first = segmentation.GetNthSegmentID(0)
        self.widget.setCurrentSegmentID(first)
        return first

    def of(self, segmentationNode, make=True):
        """The editor's node and its way to save a state for undo, if it shows this segmentation.

        Args:
            make: also where no editor was needed so far.
        """
        if make:
            self.ensure()
            self.refresh()
        if self.widget is None or self.widget.segmentationNode() is not segmentationNode:
            return None, None
        return self.node, self.widget.saveStateForUndo

    def segmentToEdit(self, segmentationNode):
        """The id of the selected segment; if none is, the first gets selected."""
        self.ensure()
        self.refresh()
        return self._selectSegment(segmentationNode)

    @property
    def hasEffect(self):
        """Whether an effect is active: clicks and keys in the views are meant for it."""
        return self.node is not None and self.node.GetActiveEffectName() not in (None, "", "None")

    def letGoOfEffect(self):
        if self.widget is not None:
            self.widget.setActiveEffect(None)

    def enter(self):
        self._entered = True
        if self.widget is not None:
            self._watchViews()

    def exit(self):
        self._entered = False
        self.letGoOfEffect()
        if self.widget is not None:
            self.widget.uninstallKeyboardShortcuts()
            self.widget.removeViewObservations()

    def onSceneStartClose(self):
        self.letGoOfEffect()
        self._follow(None)
        if self.widget is not None:
            self.widget.setSegmentationNode(None)
            self.widget.removeViewObservations()

    def onSceneEndClose(self):
        if self.widget is None:
            return
        self._selectNode()
        self.widget.updateWidgetFromMRML()
        if self._entered:
            self.widget.setupViewObservations()

    def cleanup(self):
        if self.widget is None:
            return
        self.widget.setSegmentationNode(None)
        self.widget.setMRMLSegmentEditorNode(None)
        self.widget.setMRMLScene(None)
        self.widget.setParent(None)
        self.widget.deleteLater()
        self.widget = None
        self._follow(None)

    def _watchViews(self):
        self._selectNode()
        self.widget.setupViewObservations()
        self.widget.installKeyboardShortcuts()
        self.widget.updateWidgetFromMRML()

    def _selectNode(self):
        """Have an editor node of our own in the scene; after a scene was closed, a new one."""
        node = slicer.mrmlScene.GetSingletonNode(EDITOR_TAG, "vtkMRMLSegmentEditorNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
            node.UnRegister(None)
            node.SetSingletonTag(EDITOR_TAG)
            node = slicer.mrmlScene.AddNode(node)
        if node is not self.node:
            node.SetActiveEffectName("")  # the scene may have been saved in the middle of one
            self._follow(node)
            self.widget.setMRMLSegmentEditorNode(node)

    def _follow(self, node):
        if self.node is not None:
            self.node.RemoveObserver(self._observed)
        self.node = node
        if node is not None:
            self._observed = node.AddObserver("ModifiedEvent", self._onNodeModified)
        self._onNodeModified()

    def _onNodeModified(self, caller=None, event=None):
        if self.hasEffect != self._hadEffect:
            self._hadEffect = self.hasEffect
            self._onEffect(self._hadEffect)
