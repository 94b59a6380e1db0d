"""Clicks and dragged boxes in the slice views."""

import slicer
import vtk

# Before those of Slicer's own tools, so that a click is not also a pan or a window change.
_PRIORITY = 10.0

_SMALLEST_BOX = 4  # pixels on the screen

POINT = "point"
BOX = "box"


class ClickTools:
    """Listens to all slice views while a tool is chosen.

    Args:
        onPoint: told the slice node and the RAS of a click.
        onBox: told the slice node and the RAS of two opposite corners.
        onOtherMode: told when the user has chosen another mode of the mouse, such as Place.
    """

    def __init__(self, onPoint, onBox, onOtherMode):
        self._onPoint = onPoint
        self._onBox = onBox
        self._onOtherMode = onOtherMode
        self._tool = ""
        self._observed = []
        self._start = None
        self._taken = False
        self._outline = None

    def choose(self, tool):
        """'point', 'box', or '' to let go of the views."""
        if tool != self._tool:
            self._release()
            self._tool = tool
            if tool:
                # Slicer's toolbar shows which mode the mouse is in; a tool is none of its others.
                self._interactionNode().SwitchToViewTransformMode()
                self._observe()

    def refreshViews(self):
        """The layout has changed: listen to the views there are now."""
        if self._tool:
            self._release()
            self._observe()

    def _interactionNode(self):
        return slicer.app.applicationLogic().GetInteractionNode()

    def _onMode(self, node, event):
        if node.GetCurrentInteractionMode() != node.ViewTransform:
            self._onOtherMode()

    def _observe(self):
        node = self._interactionNode()
        tag = node.AddObserver(node.InteractionModeChangedEvent, self._onMode)
        self._observed.append((node, tag))
        manager = slicer.app.layoutManager()
        for name in manager.sliceViewNames() if manager is not None else ():
            view = manager.sliceWidget(name).sliceView()
            interactor = view.interactor()
            for event, handler in (
                ("LeftButtonPressEvent", self._onPress),
                # Two clicks in a row, which would else maximize the view.
                ("LeftButtonDoubleClickEvent", self._onPress),
                ("MouseMoveEvent", self._onMove),
                ("LeftButtonReleaseEvent", self._onRelease),
            ):
                self._observeOne(interactor, event, handler, view)

    def _observeOne(self, interactor, event, handler, view):
        def onEvent(caller, name):
            if handler(caller, view):
                caller.GetCommand(tag).SetAbortFlag(1)  # Slicer's own tools do not get it

        tag = interactor.AddObserver(event, onEvent, _PRIORITY)
        self._observed.append((interactor, tag))

    def _release(self):
        for observed, tag in self._observed:
            observed.RemoveObserver(tag)
        self._observed = []
        self._dropOutline()
        self._start, self._taken = None, False

    def _onPress(self, interactor, view):
        if interactor.GetShiftKey() or interactor.GetControlKey():
            return False
        self._taken = True
        xy = interactor.GetEventPosition()
        if self._tool == BOX:
            self._start = (view, xy)
        else:
            self._onPoint(view.mrmlSliceNode(), rasAt(view.mrmlSliceNode(), xy))
        return True

    def _onMove(self, interactor, view):
        if self._start is None or self._start[0] != view:
            return False
        self._drawOutline(view, self._start[1], interactor.GetEventPosition())
        return True

    def _onRelease(self, interactor, view):
        taken, self._taken = self._taken, False
        if self._start is None:
            return taken  # else Slicer's own tools had the press, and wait for this
        start, self._start = self._start, None
        self._dropOutline()
        (x0, y0), (x1, y1) = start[1], interactor.GetEventPosition()
        if start[0] == view and min(abs(x0 - x1), abs(y0 - y1)) >= _SMALLEST_BOX:
            node = view.mrmlSliceNode()
            self._onBox(node, rasAt(node, (x0, y0)), rasAt(node, (x1, y1)))
        return True

    def _drawOutline(self, view, one, other):
        if self._outline is None:
            self._outline = _Outline(view)
        self._outline.draw(one, other)

    def _dropOutline(self):
        if self._outline is not None:
            self._outline.remove()
            self._outline = None


class _Outline:
    """A rectangle in a slice view while it is dragged."""

    def __init__(self, view):
        self._view = view
        self._points = vtk.vtkPoints()
        self._points.SetNumberOfPoints(4)
        lines = vtk.vtkCellArray()
        lines.InsertNextCell(5)
        for n in (0, 1, 2, 3, 0):
            lines.InsertCellPoint(n)
        self._data = vtk.vtkPolyData()
        self._data.SetPoints(self._points)
        self._data.SetLines(lines)
        mapper = vtk.vtkPolyDataMapper2D()
        mapper.SetInputData(self._data)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(mapper)
        self._actor.GetProperty().SetColor(1.0, 0.85, 0.2)
        self._actor.GetProperty().SetLineWidth(2)
        self._renderer = view.renderWindow().GetRenderers().GetFirstRenderer()
        self._renderer.AddActor2D(self._actor)

    def draw(self, one, other):
        (x0, y0), (x1, y1) = one, other
        for n, (x, y) in enumerate(((x0, y0), (x1, y0), (x1, y1), (x0, y1))):
            self._points.SetPoint(n, x, y, 0)
        self._points.Modified()
        self._data.Modified()
        self._view.scheduleRender()

    def remove(self):
        self._renderer.RemoveActor2D(self._actor)
        self._view.scheduleRender()


def rasAt(sliceNode, xy):
    """World RAS of a pixel of a slice view."""
    return sliceNode.GetXYToRAS().MultiplyPoint((xy[0], xy[1], 0.0, 1.0))[:3]
