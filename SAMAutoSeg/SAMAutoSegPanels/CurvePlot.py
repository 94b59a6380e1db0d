"""Loss and Dice as a plot of Slicer inside the panel."""

import qt
import slicer
import vtk

from SAMAutoSegPanels.Translation import _

_LOSS = qt.QColor(115, 140, 166)
_DICE = qt.QColor(235, 143, 33)


class CurvePlot:
    """A plot view with two series; made when the first point is there.

    Its nodes are hidden and are not saved with the scene.

    Args:
        layout: the Qt layout that the view goes into.
    """

    def __init__(self, layout):
        self._layout = layout
        self._widget = None
        self._legend = None
        self._nodes = {}

    def show_(self, curve):
        """Draw a `TrainingCurve`."""
        if not self._alive():
            self._make()
        self._draw("loss", curve.steps, curve.losses)
        self._draw("dice", curve.scoreSteps, curve.scores)
        self._legend.text = _legend(bool(curve.scoreSteps))
        self._widget.plotView().fitToContent()

    def forget(self):
        """The scene is being closed, and the nodes with it."""
        if self._widget is not None:
            self._widget.setMRMLPlotViewNode(None)
        self._nodes = {}

    def cleanup(self):
        for node in self._nodes.values():
            slicer.mrmlScene.RemoveNode(node)
        self._nodes = {}
        if self._widget is not None:
            self._widget.setMRMLScene(None)
            self._widget.setParent(None)
            self._widget.deleteLater()
            self._widget = None
            self._legend.deleteLater()
            self._legend = None

    def _draw(self, kind, xs, ys):
        # VTK complains about lines with less than two points, even about invisible ones.
        if len(xs) == 1:
            xs, ys = [*xs, *xs], [*ys, *ys]
        _fill(self._nodes[f"{kind}Table"], xs, ys)
        chart, series = self._nodes["chart"], self._nodes[kind].GetID()
        if xs and not chart.HasPlotSeriesNodeID(series):
            chart.AddAndObservePlotSeriesNodeID(series)
        elif not xs and chart.HasPlotSeriesNodeID(series):
            chart.RemovePlotSeriesNodeID(series)

    def _alive(self):
        return self._widget is not None and "view" in self._nodes

    def _make(self):
        for kind, title, color in (("loss", _("Loss"), _LOSS), ("dice", _("Held-out Dice"), _DICE)):
            table = self._add("vtkMRMLTableNode", f"{kind}Table", title)
            for name in (_("Step"), title):
                column = vtk.vtkFloatArray()
                column.SetName(name)
                table.AddColumn(column)
            one = self._add("vtkMRMLPlotSeriesNode", kind, title)
            one.SetAndObserveTableNodeID(table.GetID())
            one.SetXColumnName(_("Step"))
            one.SetYColumnName(title)
            one.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
            one.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleSolid)
            markers = slicer.vtkMRMLPlotSeriesNode
            one.SetMarkerStyle(
                markers.MarkerStyleCircle if kind == "dice" else markers.MarkerStyleNone
            )
            one.SetColor(color.redF(), color.greenF(), color.blueF())
        chart = self._add("vtkMRMLPlotChartNode", "chart", _("Training"))
        chart.SetXAxisTitle(_("Step"))
        chart.SetTitleVisibility(False)
        # It would lie over the end of the curve, which tells most, so it stands above the view.
        chart.SetLegendVisibility(False)
        # A panel is narrow; Slicer's own sizes are made for a whole view.
        chart.SetAxisTitleFontSize(9)
        chart.SetAxisLabelFontSize(9)
        view = self._add("vtkMRMLPlotViewNode", "view", "SAMAutoSeg")
        view.SetPlotChartNodeID(chart.GetID())
        if self._widget is None:
            self._widget = slicer.qMRMLPlotWidget()
            self._widget.setMRMLScene(slicer.mrmlScene)
            self._widget.plotController().visible = False
            self._legend = qt.QLabel()
            self._legend.textFormat = qt.Qt.RichText
            self._layout.addWidget(self._legend)
            self._layout.addWidget(self._widget)
        self._widget.setMRMLPlotViewNode(view)

    def _add(self, className, key, name):
        node = slicer.mrmlScene.CreateNodeByClass(className)
        node.UnRegister(None)
        node.SetName(name)
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        if className == "vtkMRMLPlotViewNode":
            node.SetLayoutName("SAMAutoSeg")
            # Known before it is in the scene: else the layout manager makes a view for it too.
            node.SetAndObserveParentLayoutNodeID(self._nodes["chart"].GetID())
            # Else the charts that other modules show would take the place of this one.
            node.SetDoPropagatePlotChartSelection(False)
        self._nodes[key] = slicer.mrmlScene.AddNode(node)
        return self._nodes[key]


def _legend(withDice):
    """What the colors mean, as rich text."""
    meanings = [(_LOSS, _("Loss"))]
    if withDice:
        meanings.append((_DICE, _("Held-out Dice")))
    return " &nbsp; ".join(
        f'<span style="color:{color.name()}">&#9644;</span> {title}' for color, title in meanings
    )


def _fill(tableNode, xs, ys):
    """Bring the two columns of a table up to date."""
    table = tableNode.GetTable()
    table.SetNumberOfRows(len(xs))
    for row, values in enumerate(zip(xs, ys, strict=True)):
        for column, value in enumerate(values):
            table.SetValue(row, column, vtk.vtkVariant(float(value)))
    table.Modified()
    tableNode.Modified()
